"""Tasks without a given picture: from text alone, or from one whole stream to the other."""

from torch import Tensor

from model.conditioning import VideoCondition
from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks.condition import nothing
from pipelines.training.tasks.example import Example, Scene
from pipelines.training.tasks.text import caption


def text_to_picture(sample: LatentSample, scene: Scene) -> Example:
    """An image or a silent clip from text."""
    video = picture(sample)
    return Example(caption(sample, scene), video, nothing(video, scene.black))


def text_to_audio_video(sample: LatentSample, scene: Scene) -> Example:
    """A clip with its sound from text."""
    video = picture(sample)
    return Example(caption(sample, scene), video, nothing(video, scene.black), sound(sample))


def text_to_audio(sample: LatentSample, scene: Scene) -> Example:
    """Sound from text: the audio branch alone."""
    return Example(caption(sample, scene), audio=sound(sample))


def video_to_audio(sample: LatentSample, scene: Scene) -> Example:
    """Sound for a picture that is given: kept as a whole, at timestep 1."""
    video = picture(sample)
    kept = VideoCondition(video[None], video.new_ones(1, 1, *video.shape[1:]))
    return Example(caption(sample, scene), video, kept, sound(sample), given=frozenset({"video"}))


def audio_to_video(sample: LatentSample, scene: Scene) -> Example:
    """A picture for sound that is given, at timestep 1."""
    video = picture(sample)
    condition = nothing(video, scene.black)
    return Example(caption(sample, scene), video, condition, sound(sample), given=frozenset({"audio"}))


def picture(sample: LatentSample) -> Tensor:
    """The clip's latents (C, T, h, w)."""
    return held(sample, sample.video, "video")


def sound(sample: LatentSample) -> Tensor:
    """The sound's latents (Ca, L)."""
    return held(sample, sample.audio, "audio")


def sound_if_heard(sample: LatentSample, scene: Scene) -> Tensor | None:
    """The sound where the model has an audio branch."""
    return sound(sample) if "audio" in scene.streams else None


def held(sample: LatentSample, latents: Tensor | None, name: str) -> Tensor:
    """`latents`, or an error that says what the sample lacks."""
    if latents is None:
        raise ValueError(f"{sample.key} holds no {name} latents: draw samples with `Task.usable`")
    return latents
