"""Tasks that keep whole latent frames: the first, the first and the last, some in between, or a run to extend.

Given frames were encoded on their own, never cut from the clip's latents: a causal codec carries what came before
into every latent. Only latent 0 of a clip is the image alone, and `stills` holds it so.
"""

import torch

from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks import condition
from pipelines.training.tasks.example import Example, Scene
from pipelines.training.tasks.streams import held, picture, sound_if_heard
from pipelines.training.tasks.text import caption

MOST_KEYFRAMES = 6
"""Of the published interface."""


def image_to_video(sample: LatentSample, scene: Scene) -> Example:
    """Starts from the first frame."""
    return _through(sample, scene, [0])


def start_end(sample: LatentSample, scene: Scene) -> Example:
    """Goes from the first frame to the last."""
    return _through(sample, scene, [0, picture(sample).shape[1] - 1])


def keyframes_at(sample: LatentSample, scene: Scene) -> Example:
    """Passes through 1 to 6 frames at any times."""
    count = picture(sample).shape[1]
    number = 1 + scene.pick(min(MOST_KEYFRAMES, count - 1))
    places = torch.randperm(count, generator=scene.generator)[:number]
    return _through(sample, scene, places.sort().values.tolist())


def extend(sample: LatentSample, scene: Scene) -> Example:
    """Goes on after the first latent frames, or leads up to the last."""
    video = picture(sample)
    given = sample.extensions[scene.pick(len(sample.extensions))]
    kept = given.latents.shape[1]
    start = video.shape[1] - kept if given.at_end else 0
    placed = {start + frame: given.latents[:, frame] for frame in range(kept)}
    kept_frames = condition.frames(video, placed, scene.black)
    return Example(caption(sample, scene), video, kept_frames, sound_if_heard(sample, scene))


def _through(sample: LatentSample, scene: Scene, places: list[int]) -> Example:
    video, stills = picture(sample), held(sample, sample.stills, "stills")
    kept = condition.frames(video, {place: stills[:, place] for place in places}, scene.black)
    return Example(caption(sample, scene), video, kept, sound_if_heard(sample, scene))
