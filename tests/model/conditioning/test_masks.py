import torch
from hypothesis import given
from hypothesis import strategies as st

from model.conditioning import BLACK, blank, latent_keep_mask
from model.shapes import VideoCodecSpec


@given(seed=st.integers(0, 10_000), causal=st.booleans(), latents=st.integers(1, 4))
def test_a_cell_is_kept_only_if_every_one_of_its_pixels_is(seed: int, causal: bool, latents: int) -> None:
    spec = VideoCodecSpec(channels=1, stride=(4, 8, 8), causal_first=causal)
    frames = spec.frames_of(latents)
    torch.manual_seed(seed)
    keep = torch.ones(1, 1, frames, 16, 24)
    for _ in range(3):
        frame, row, column = (int(torch.randint(size, ())) for size in (frames, 16, 24))
        keep[0, 0, frame, row, column] = 0
    mask = latent_keep_mask(keep, spec)
    assert mask.shape == (1, 1, latents, 2, 3)
    for latent in range(latents):
        for row in range(2):
            for column in range(3):
                pixels = keep[0, 0, list(spec.frame_span(latent)), row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                assert mask[0, 0, latent, row, column] == float(pixels.all())


def test_what_is_to_be_generated_is_black_and_the_rest_untouched() -> None:
    pixels = torch.rand(1, 3, 1, 4, 4)
    keep = torch.zeros(1, 1, 1, 4, 4)
    keep[..., :2] = 1
    blanked = blank(pixels, keep)
    assert torch.equal(blanked[..., :2], pixels[..., :2])
    assert (blanked[..., 2:] == BLACK).all()
