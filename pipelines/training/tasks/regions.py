"""Tasks that change part of a picture. The sound is made anew: audio is never masked (paper, section 3.2)."""

from dataclasses import replace

from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks import condition
from pipelines.training.tasks.example import Example, Scene
from pipelines.training.tasks.streams import held, picture, sound_if_heard
from pipelines.training.tasks.text import caption, caption_read_with, instruction


def inpaint(sample: LatentSample, scene: Scene) -> Example:
    """Fills one of the sample's regions, in a clip or in an image."""
    video = picture(sample)
    drawn = sample.regions[scene.pick(len(sample.regions))]
    kept = condition.region(drawn.latents, drawn.keep_mask)
    return Example(caption(sample, scene), video, kept, sound_if_heard(sample, scene))


def edit(sample: LatentSample, scene: Scene) -> Example:
    """Changes a clip as the instruction says: within its region, or everywhere with the clip before as reference, which
    the instruction was then read with.

    Every example carries the clip before, and those with a region do not attend to it: batches that have both kinds,
    and ranks, then run the same modules.
    """
    video = picture(sample)
    before = held(sample, sample.references.get("video"), "reference.video")
    told = instruction(sample, scene) if sample.regions else caption_read_with(sample, "video", scene)
    sound = sound_if_heard(sample, scene)
    example = Example(told, video, condition.nothing(video, scene.black), sound, video_reference=before)
    if not sample.regions:
        return replace(example, attends=not scene.chance(scene.settings.dropout.references))
    drawn = sample.regions[scene.pick(len(sample.regions))]
    return replace(example, condition=condition.region(drawn.latents, drawn.keep_mask), attends=False)
