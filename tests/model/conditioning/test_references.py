import pytest
import torch

from model.conditioning import (
    AudioReference,
    ImageReference,
    VideoReference,
    check_tags,
    encode_audio_references,
    encode_visual_references,
    fit_to_size,
)
from model.shapes import ClipShape


def test_references_of_any_size_become_latents_of_the_clips_size(clip: ClipShape, codec) -> None:
    subject = ImageReference("@image_1", [torch.rand(3, 20, 20), torch.rand(3, 100, 40)])
    motion = VideoReference("@video_1", torch.rand(3, 11, 64, 96))
    voice = AudioReference("@audio_1", torch.rand(1, 1000))
    latents = encode_visual_references([subject, voice, motion], clip, codec)
    assert [tuple(part.shape) for part in latents] == [(1, 3, 2, 4, 6), (1, 3, 3, 4, 6)]
    (sound,) = encode_audio_references([subject, voice], clip.audio, lambda waveform: waveform)
    assert sound.shape == (1, 1, 800)


def test_images_of_one_reference_are_encoded_alone(clip: ClipShape, codec) -> None:
    images = [torch.rand(3, 32, 48), torch.rand(3, 32, 48)]
    (latents,) = encode_visual_references([ImageReference("@image_1", images)], clip, codec)
    torch.testing.assert_close(latents[:, :, 1:], codec(images[1][None, :, None]))


def test_fitting_keeps_the_aspect_ratio_and_pads_black() -> None:
    square = torch.ones(1, 3, 2, 64, 64)
    fitted = fit_to_size(square, 32, 48)
    assert fitted.shape == (1, 3, 2, 32, 48)
    assert (fitted[..., 8:40] == 1).all()
    assert (fitted[..., :8] == -1).all()
    assert (fitted[..., 40:] == -1).all()
    same = torch.rand(1, 3, 1, 32, 48)
    assert torch.equal(fit_to_size(same, 32, 48), same)


def test_prompts_and_references_must_name_each_other() -> None:
    one, two = (ImageReference(tag, []) for tag in ("@image_1", "@Actor-1"))
    check_tags("@Actor-1 looks at @image_1.", [one, two])
    with pytest.raises(ValueError, match="@image_1"):
        check_tags("@Actor-1 looks at @image_10", [one, two])
    with pytest.raises(ValueError, match="own tag"):
        check_tags("@image_1", [one, one])
    with pytest.raises(ValueError, match="must be @"):
        ImageReference("image 1", [])
