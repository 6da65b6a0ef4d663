import copy
import dataclasses

import pytest
import torch

from model.conditioning import VideoCondition
from model.config import TransformerConfig
from model.network.mmdit import JointInputs, MMDiT
from model.sampling.denoiser import GuidedVelocity, RunInputs, TiledVelocity, runs_together, stack_text
from model.sampling.guidance import GuidanceScales
from model.tiles import Tiles

C, CA, T, H, W, L, D = 4, 3, 2, 4, 4, 7, 8
SCALE = T / L


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    built = MMDiT(TransformerConfig(24, 2, 1, 1, D, C, CA))
    for parameter in built.parameters():  # gates start at zero: without this no guidance term would show
        torch.nn.init.normal_(parameter, std=0.1)
    return built.eval()


def texts(length, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D, generator=generator), torch.ones(batch, length, dtype=torch.bool)


def run_inputs(**changes):
    torch.manual_seed(1)
    values = {
        "prompt": texts(5),
        "negative": texts(3, seed=1),
        "generates": frozenset({"video", "audio"}),
        "condition": VideoCondition(torch.randn(1, C, T, H, W), (torch.rand(1, 1, T, H, W) > 0.5).float()),
        "video_references": {"@image_1": torch.randn(2, C, 1, H, W)},
        "audio_references": {"@audio_1": torch.randn(2, CA, 2)},
        "audio_time_scale": SCALE,
    }
    return RunInputs(**{**values, **changes})


def noise():
    torch.manual_seed(2)
    return {"video": torch.randn(2, C, T, H, W), "audio": torch.randn(2, CA, L)}


@torch.no_grad()
def alone(model, run, latents, t, *, text=None, shown=("@image_1", "@audio_1"), cross_modal=True, **given):
    """One pass by itself: no batch, no cache, no mask; what is not shown is not there."""
    return model(
        JointInputs(
            text=(text or run.prompt)[0],
            timesteps=torch.tensor([[given.get("video_t", t), t]]).expand(2, 2),
            video=run.condition.channels({**run.given, **latents}["video"]),
            audio=latents["audio"],
            audio_time_scale=SCALE,
            video_references=[part for tag, part in run.video_references.items() if tag in shown],
            audio_references=[part for tag, part in run.audio_references.items() if tag in shown],
            cross_modal=cross_modal,
        )
    )


def assert_guided(guided, full, terms):
    """`terms` are (scale of video, scale of audio, prediction without) triples."""
    for index, stream in enumerate(("video", "audio")):
        f = getattr(full, stream)
        expected = f
        for term in terms:
            expected = expected + (term[index] - 1) * (f - getattr(term[2], stream))
        assert (expected - f).abs().max() > 1e-3
        torch.testing.assert_close(guided[stream], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_batched_passes_equal_separate_runs_without_caches(model, together):
    run, latents, t = run_inputs(), noise(), 0.4
    scales = GuidanceScales(video=4.0, audio=3.0, reference=2.0, cross_modal=1.5)
    guided = GuidedVelocity(model, run, scales, together)(latents, t)
    full = alone(model, run, latents, t)
    no_text = alone(model, run, latents, t, text=run.negative)
    no_references = alone(model, run, latents, t, shown=())
    apart = alone(model, run, latents, t, cross_modal=False)
    assert_guided(guided, full, [(4.0, 3.0, no_text), (2.0, 2.0, no_references), (1.5, 1.5, apart)])


@pytest.mark.parametrize("together", [True, False])
def test_every_reference_is_guided_by_a_pass_without_it_alone(model, together):
    run, latents, t = run_inputs(), noise(), 0.4
    scales = GuidanceScales(1.0, 1.0, reference={"@image_1": 3.0, "@audio_1": 1.5})
    guided = GuidedVelocity(model, run, scales, together)(latents, t)
    full = alone(model, run, latents, t)
    voice_only, image_only = (alone(model, run, latents, t, shown=(tag,)) for tag in ("@audio_1", "@image_1"))
    assert_guided(guided, full, [(3.0, 3.0, voice_only), (1.5, 1.5, image_only)])


def test_where_arithmetic_is_dear_no_pass_is_padded_or_masked(model):
    scales = GuidanceScales(reference={"@image_1": 2.0, "@audio_1": 2.0}, cross_modal=1.5)
    velocity = GuidedVelocity(model, run_inputs(), scales, together=False)
    inputs = [batch.inputs(noise(), 0.4) for batch in velocity.batches]
    rows_and_texts = [(part.text.shape[0], part.text.shape[1]) for part in inputs]
    assert rows_and_texts == [(2, 5), (2, 3), (4, 5), (2, 5)]
    assert [part.text_mask for part in inputs] == [None] * 4
    assert [part.reference_rows is not None for part in inputs] == [False, False, True, False]
    assert [part.cross_modal for part in inputs] == [True, True, True, False]
    assert len(GuidedVelocity(model, run_inputs(), scales, together=True).batches) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_given_stream_stands_at_timestep_one_and_is_not_generated(model, together):
    latents = noise()
    run = run_inputs(generates=frozenset({"audio"}), given={"video": latents.pop("video")})
    velocity = GuidedVelocity(model, run, GuidanceScales(cross_modal=2.0), together)
    guided = velocity(latents, 0.2)
    assert set(guided) == {"audio"}
    full, no_text, apart = (
        alone(model, run, latents, 0.2, video_t=1.0, **changes).audio
        for changes in ({}, {"text": run.negative}, {"cross_modal": False})
    )
    torch.testing.assert_close(guided["audio"], full + 2 * (full - no_text) + (full - apart), rtol=1e-4, atol=1e-4)
    # Apart from the video, the sound needs no video: its pass does without.
    without_video = [batch.inputs(latents, 0.2).video is None for batch in velocity.batches]
    assert without_video == ([False] if together else [False, False, True])


def test_texts_of_one_length_need_no_mask():
    assert stack_text([texts(4), texts(4)])[1] is None
    text, mask = stack_text([texts(4), texts(2)])
    assert text.shape == (4, 4, D)
    assert mask.sum(1).tolist() == [4, 4, 2, 2]
    assert not text[2:, 2:].any()


@pytest.mark.parametrize(
    ("device", "tokens", "padding", "together"),
    [
        ("cpu", 100, 20, True),
        ("cpu", 100, 200, False),
        ("cpu", 2000, 20, False),
        ("cuda", 100, 200, True),
        ("cuda", 30_000, 0, False),
    ],
)
def test_long_sequences_are_not_masked_for_a_shorter_text(device, tokens, padding, together):
    assert runs_together(device, tokens, padding) is together


def picture(width):
    """A run of a picture alone, and its latents, which change slowly from column to column."""
    torch.manual_seed(3)
    slope = torch.linspace(-1, 1, width)
    noisy, shown, mask = (torch.randn(1, channels, T, 8, 1) + 2 * slope for channels in (C, C, 1))
    run = run_inputs(
        prompt=texts(5, batch=1),
        negative=texts(3, batch=1),
        generates=frozenset({"video"}),
        condition=VideoCondition(shown, (mask > 0).float()),
        video_references={},
        audio_references={},
    )
    return run, {"video": noisy}


def without_attention(model):
    """The same with nothing read from other places: text alone."""
    built = copy.deepcopy(model)
    for layer in built.layers:
        attention = getattr(layer.video.streams, "attention", None) or layer.video.streams.media_attention
        torch.nn.init.zeros_(attention.out.weight)
    return built


def test_tiles_of_what_no_place_reads_of_another_are_the_whole(model):
    """Latents, conditions and masks of each place reach it, with what the first tile's step has cached."""
    run, latents = picture(20)
    local, scales = without_attention(model), GuidanceScales(video=3.0)
    tiled = TiledVelocity(local, run, scales, Tiles.over((8, 20), (4, 8), (2, 4)))
    whole = GuidedVelocity(local, run, scales)
    for t in (0.2, 0.6):
        torch.testing.assert_close(tiled(latents, t)["video"], whole(latents, t)["video"], atol=1e-5, rtol=1e-4)


def test_tiles_fade_into_each_other_where_set_side_by_side_they_would_step(model):
    """What tiles differ by from the whole changes from token to token less where they meet than it would unblended."""
    run, latents = picture(32)
    scales, velocity = GuidanceScales(), GuidedVelocity(model, run, GuidanceScales())
    whole = velocity(latents, 0.3)["video"]
    halves = []
    for part in (slice(0, 16), slice(16, 32)):
        condition = VideoCondition(run.condition.latents[..., part], run.condition.keep_mask[..., part])
        alone = GuidedVelocity(model, dataclasses.replace(run, condition=condition), scales)
        halves.append(alone({"video": latents["video"][..., part]}, 0.3)["video"])
    faded = TiledVelocity(model, run, scales, Tiles.over((8, 32), (8, 16), (4, 8)))(latents, 0.3)["video"]

    def step(made):
        return (made - whole)[..., ::2].diff(dim=-1).abs().mean((0, 1, 2, 3)).max()

    assert step(faded) < 0.5 * step(torch.cat(halves, -1))


def test_what_reads_across_tiles_is_not_made_in_them(model):
    with pytest.raises(ValueError, match="without references, keyframes and sound"):
        TiledVelocity(model, run_inputs(), GuidanceScales(), Tiles.over((4, 4), (2, 4), (1, 2)))
