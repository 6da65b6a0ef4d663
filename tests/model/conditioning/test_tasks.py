import dataclasses

import pytest
import torch

from model.conditioning import (
    Editing,
    ExtendBackward,
    ExtendForward,
    ImageToVideo,
    Inpainting,
    KeyframesToVideo,
    TextToAudio,
    TextToAudioVideo,
    TextToVideo,
    VideoToAudio,
)
from model.shapes import ClipShape

BOTH = {"video", "audio"}


def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48) * 2 - 1


def video(frames: int = 17) -> torch.Tensor:
    return torch.rand(2, 3, frames, 32, 48) * 2 - 1


def kept_frames(conditioning) -> list[float]:
    """The mask per latent frame; every frame must be kept or generated as a whole."""
    per_frame = conditioning.condition.keep_mask.flatten(3)
    assert torch.equal(per_frame.amin(-1), per_frame.amax(-1))
    return per_frame[0, 0, :, 0].tolist()


@pytest.mark.parametrize(
    ("task", "generates", "mask"),
    [
        (TextToVideo(), {"video"}, [0, 0, 0, 0, 0]),
        (TextToAudioVideo(), BOTH, [0, 0, 0, 0, 0]),
        (ImageToVideo(image()), BOTH, [1, 0, 0, 0, 0]),
        (KeyframesToVideo([image(), image()], [0.0, 17 / 16]), BOTH, [1, 0, 0, 0, 1]),
        (KeyframesToVideo([image(), image()], [0.25, 0.8]), BOTH, [0, 1, 0, 1, 0]),
        (ExtendForward(video(5)), BOTH, [1, 1, 0, 0, 0]),
        (ExtendBackward(video(5)), BOTH, [0, 0, 0, 1, 1]),
        (VideoToAudio(video()), {"audio"}, [1, 1, 1, 1, 1]),
        (Editing(video()), BOTH, [0, 0, 0, 0, 0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_task_has_the_mask_of_the_papers_table(task, generates, mask, clip: ClipShape, codec) -> None:
    conditioning = task.prepare(clip, codec, lambda waveform: waveform[..., ::400])
    assert conditioning.generates == generates
    assert kept_frames(conditioning) == mask
    channels = conditioning.condition.channels(torch.zeros(2, *clip.video_latent_shape))
    assert channels.shape == (2, 2 * 3 + 1, 5, 4, 6)


def test_without_audio_codec_no_audio_is_generated(clip: ClipShape, codec) -> None:
    silent = dataclasses.replace(clip, audio=None)
    assert ImageToVideo(image()).prepare(silent, codec).generates == {"video"}
    with pytest.raises(ValueError, match="audio codec"):
        TextToAudioVideo().prepare(silent, codec)


def test_frames_without_condition_hold_black_image_latents(clip: ClipShape, codec) -> None:
    conditioning = ImageToVideo(image()).prepare(clip, codec)
    black = codec(torch.full((1, 3, 1, 32, 48), -1.0))
    torch.testing.assert_close(conditioning.condition.latents[:, :, 1:], black.expand(2, -1, 4, -1, -1))


def test_images_are_encoded_alone(clip: ClipShape, codec) -> None:
    first, last = image(), image()
    latents = KeyframesToVideo([first, last], [0.0, clip.seconds]).prepare(clip, codec).condition.latents
    torch.testing.assert_close(latents[:, :, 0], codec(first[:, :, None])[:, :, 0])
    torch.testing.assert_close(latents[:, :, 4], codec(last[:, :, None])[:, :, 0])
    assert all(call[2] == 1 for call in codec.calls)


def test_keyframes_lie_where_their_moments_are_shown(clip: ClipShape, codec) -> None:
    images = [image(), image()]
    latents = KeyframesToVideo(images, [0.8, 0.25]).prepare(clip, codec).condition.latents
    torch.testing.assert_close(latents[:, :, 3], codec(images[0][:, :, None])[:, :, 0])
    torch.testing.assert_close(latents[:, :, 1], codec(images[1][:, :, None])[:, :, 0])
    with pytest.raises(ValueError, match="two keyframes"):
        KeyframesToVideo(images, [0.25, 0.26]).prepare(clip, codec)


@pytest.mark.parametrize(("task", "first"), [(ExtendForward, 0), (ExtendBackward, 12)])
def test_extension_keeps_the_sources_frames_where_they_will_be(task, first: int, clip: ClipShape, codec) -> None:
    given = video(5)
    conditioning = task(given).prepare(clip, codec)
    torch.testing.assert_close(conditioning.source[:, :, first : first + 5], given)
    kept = conditioning.source_keep[0, 0].flatten(1)
    assert kept.any(1).nonzero().flatten().tolist() == list(range(first, first + 5))
    # The kept pixel frames are all shown by latent frames whose mask is 1.
    shown_by = {clip.video.latent_of_frame(frame) for frame in range(first, first + 5)}
    assert {index for index, kept in enumerate(kept_frames(conditioning)) if kept} == shown_by


def test_extension_cannot_see_what_it_is_to_make(clip: ClipShape, codec) -> None:
    given = video(17)
    short = ExtendForward(given[:, :, :5]).prepare(clip, codec).condition.latents
    changed = given.clone()
    changed[:, :, 5:] = 0.5
    torch.testing.assert_close(ExtendForward(changed[:, :, :5]).prepare(clip, codec).condition.latents, short)
    assert max(call[2] for call in codec.calls) == 5


@pytest.mark.parametrize("moving", [False, True])
def test_changing_pixels_inside_the_edited_region_changes_no_conditioning_latent(
    moving: bool, clip: ClipShape, codec
) -> None:
    source = video()
    keep = torch.ones(2, 1, 17 if moving else 1, 32, 48)
    for frame in range(keep.shape[2]):
        keep[:, :, frame, 5:19, 3 + frame : 17 + frame] = 0
    conditioning = Inpainting(source, keep).prepare(clip, codec)
    changed = torch.where(keep.bool(), source, torch.rand_like(source))
    assert not torch.equal(changed, source)
    other = Inpainting(changed, keep).prepare(clip, codec)
    assert torch.equal(other.condition.latents, conditioning.condition.latents)
    # Slicing the latents of the whole clip instead, as a careless trainer would, leaks with this codec.
    assert not torch.equal(
        codec(changed) * conditioning.condition.keep_mask, codec(source) * conditioning.condition.keep_mask
    )
    assert torch.equal(conditioning.source_keep.expand_as(source)[:, :1], keep.bool().expand(2, 1, 17, 32, 48))


def test_an_image_is_inpainted_as_a_clip_of_one_frame(clip: ClipShape, codec) -> None:
    still = ClipShape(1, 16, 32, 48, clip.video)
    keep = torch.ones(2, 1, 1, 32, 48)
    keep[..., :8, :8] = 0
    conditioning = Inpainting(image()[:, :, None], keep).prepare(still, codec)
    assert conditioning.condition.keep_mask.sum(dim=(1, 2, 3, 4)).tolist() == [4 * 6 - 1] * 2
    assert TextToVideo().prepare(still, codec).condition.latents.shape[2] == 1


def test_editing_without_a_mask_shows_the_source_where_its_frames_will_be_and_keeps_none(clip, codec) -> None:
    source = video()
    conditioning = Editing(source).prepare(clip, codec)
    torch.testing.assert_close(conditioning.condition.latents, codec(source))
    assert not conditioning.condition.keep_mask.any()
    assert conditioning.source is None
    assert torch.equal(conditioning.edited, source)


def test_given_streams_enter_clean(clip: ClipShape, codec) -> None:
    source = video()
    torch.testing.assert_close(VideoToAudio(source).prepare(clip, codec).given["video"], codec(source))
    assert TextToAudio().prepare(clip, codec).condition is None


def test_media_of_the_wrong_size_are_refused(clip: ClipShape, codec) -> None:
    with pytest.raises(ValueError, match="resize"):
        ImageToVideo(torch.zeros(1, 3, 32, 32)).prepare(clip, codec)
    with pytest.raises(ValueError, match="whole video latents"):
        ExtendForward(video(6)).prepare(clip, codec)
    with pytest.raises(ValueError, match="longer"):
        ExtendForward(video(17)).prepare(clip, codec)
    with pytest.raises(ValueError, match="the video has 5 frames but the clip 17"):
        Editing(video(5)).prepare(clip, codec)
    with pytest.raises(ValueError, match="17"):
        Inpainting(video(5), torch.ones(2, 1, 1, 32, 48)).prepare(clip, codec)
