"""Tasks with references in context: clean latents before the clip on negative times (paper, section 3.3).

Dropping references closes attention to their latents; the text that was read together with them stays, as in the
guidance pass without references.
"""

from dataclasses import replace

import torch
from torch import Tensor

from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks import condition
from pipelines.training.tasks.example import Example, Scene
from pipelines.training.tasks.streams import held, picture, sound, sound_if_heard
from pipelines.training.tasks.text import caption_read_with


def image_reference(sample: LatentSample, scene: Scene) -> Example:
    """A clip of what reference images show, in any order."""
    images = _reference(sample, "image")
    order = torch.randperm(images.shape[1], generator=scene.generator)
    return _seen(sample, scene, "image", images[:, order])


def video_reference(sample: LatentSample, scene: Scene) -> Example:
    """A clip that follows a reference clip."""
    return _seen(sample, scene, "video", _reference(sample, "video"))


def audio_reference(sample: LatentSample, scene: Scene) -> Example:
    """A sound, and the picture where there is a branch for it, with the voice of a reference."""
    example = Example(
        caption_read_with(sample, "audio", scene),
        audio=sound(sample),
        audio_reference=_reference(sample, "audio"),
        attends=_attends(scene),
    )
    if "video" not in scene.streams:
        return example
    video = picture(sample)
    return replace(example, video=video, condition=condition.nothing(video, scene.black))


def _seen(sample: LatentSample, scene: Scene, kind: str, latents: Tensor) -> Example:
    video = picture(sample)
    return Example(
        caption_read_with(sample, kind, scene),
        video,
        condition.nothing(video, scene.black),
        sound_if_heard(sample, scene),
        video_reference=latents,
        attends=_attends(scene),
    )


def _reference(sample: LatentSample, kind: str) -> Tensor:
    return held(sample, sample.references.get(kind), f"reference.{kind}")


def _attends(scene: Scene) -> bool:
    return not scene.chance(scene.settings.dropout.references)
