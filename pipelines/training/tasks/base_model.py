"""What the base learns: from text alone, from a whole stream, and from given frames, regions or references.

Given frames and regions were encoded on their own, never cut from the clip's latents: a causal codec carries what came
before into every latent. Only latent 0 of a clip is the image alone, and `stills` holds it so. The sound of a changed
picture is made anew: audio is never masked (paper, section 3.2). References are clean latents before the clip on
negative times (section 3.3); dropping them closes attention to their latents, while the text that was read together
with them stays, as in the guidance pass without references.
"""

from dataclasses import replace

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from pipelines.training.latents.sample import IMAGE_AND_AUDIO, LatentSample, Region
from pipelines.training.tasks.example import Example, TaskContext, caption, caption_read_with, instruction


def text_to_picture(sample: LatentSample, context: TaskContext) -> Example:
    """An image or a silent clip from text."""
    video = picture(sample)
    return Example(caption(sample, context), video, nothing_kept(video, context.black))


def text_to_audio_video(sample: LatentSample, context: TaskContext) -> Example:
    """A clip with its sound from text."""
    video = picture(sample)
    return Example(caption(sample, context), video, nothing_kept(video, context.black), sound(sample))


def text_to_audio(sample: LatentSample, context: TaskContext) -> Example:
    """Sound from text: the audio branch alone."""
    return Example(caption(sample, context), audio=sound(sample))


def video_to_audio(sample: LatentSample, context: TaskContext) -> Example:
    """Sound for a picture that is given: kept as a whole, at timestep 1."""
    video = picture(sample)
    kept = VideoCondition(video[None], video.new_ones(1, 1, *video.shape[1:]))
    return Example(caption(sample, context), video, kept, sound(sample), given=frozenset({"video"}))


def audio_to_video(sample: LatentSample, context: TaskContext) -> Example:
    """A picture for sound that is given, at timestep 1."""
    video = picture(sample)
    condition = nothing_kept(video, context.black)
    return Example(caption(sample, context), video, condition, sound(sample), given=frozenset({"audio"}))


def picture(sample: LatentSample) -> Tensor:
    """The clip's latents (C, T, h, w)."""
    return held(sample, sample.video, "video")


def sound(sample: LatentSample) -> Tensor:
    """The sound's latents (Ca, L)."""
    return held(sample, sample.audio, "audio")


def sound_if_heard(sample: LatentSample, context: TaskContext) -> Tensor | None:
    """The sound where the model has an audio branch."""
    return sound(sample) if "audio" in context.streams else None


def held(sample: LatentSample, latents: Tensor | None, name: str) -> Tensor:
    """`latents`, or an error that says what the sample lacks."""
    if latents is None:
        raise ValueError(f"{sample.key} holds no {name} latents: draw samples with `TrainingTask.usable`")
    return latents


MOST_KEYFRAMES = 6
"""Of the published interface."""


def image_to_video(sample: LatentSample, context: TaskContext) -> Example:
    """Starts from the first frame."""
    return _through(sample, context, [0])


def start_end(sample: LatentSample, context: TaskContext) -> Example:
    """Goes from the first frame to the last."""
    return _through(sample, context, [0, picture(sample).shape[1] - 1])


def keyframes_at(sample: LatentSample, context: TaskContext) -> Example:
    """Passes through 1 to 6 frames at any times."""
    count = picture(sample).shape[1]
    number = 1 + context.pick(min(MOST_KEYFRAMES, count - 1))
    places = torch.randperm(count, generator=context.generator)[:number]
    return _through(sample, context, places.sort().values.tolist())


def extend(sample: LatentSample, context: TaskContext) -> Example:
    """Goes on after the first latent frames, or leads up to the last."""
    video = picture(sample)
    given = sample.extensions[context.pick(len(sample.extensions))]
    kept = given.latents.shape[1]
    start = video.shape[1] - kept if given.at_end else 0
    placed = {start + frame: given.latents[:, frame] for frame in range(kept)}
    kept_frames = nothing_kept(video, context.black).keeping(placed)
    return Example(caption(sample, context), video, kept_frames, sound_if_heard(sample, context))


def _through(sample: LatentSample, context: TaskContext, places: list[int]) -> Example:
    video, stills = picture(sample), held(sample, sample.stills, "stills")
    kept = nothing_kept(video, context.black).keeping({place: stills[:, place] for place in places})
    return Example(caption(sample, context), video, kept, sound_if_heard(sample, context))


def inpaint(sample: LatentSample, context: TaskContext) -> Example:
    """Fills one of the sample's regions, in a clip or in an image."""
    video = picture(sample)
    drawn = sample.regions[context.pick(len(sample.regions))]
    kept = region_kept(drawn)
    return Example(caption(sample, context), video, kept, sound_if_heard(sample, context))


def edit(sample: LatentSample, context: TaskContext) -> Example:
    """Changes a clip as the instruction says: within its region, or anywhere in the clip before, which is then shown
    and was read with the instruction. An edit that has a region is made without it half of the time, since most people
    give none.
    """
    video = picture(sample)
    if sample.regions and context.chance(0.5):
        told = instruction(sample, context)
        condition = region_kept(sample.regions[context.pick(len(sample.regions))])
    else:
        told = caption_read_with(sample, "video", context)
        condition = VideoCondition.shown(_reference(sample, "video")[None])
    return Example(told, video, condition, sound_if_heard(sample, context))


def image_reference(sample: LatentSample, context: TaskContext) -> Example:
    """A clip of what reference images show, in any order."""
    return replace(_seen(sample, context, "image", _in_any_order(sample, context)), pictures=True)


def image_and_audio_reference(sample: LatentSample, context: TaskContext) -> Example:
    """A clip of what reference images show, with the voice or sound of a reference."""
    example = _heard(sample, context, IMAGE_AND_AUDIO)
    return replace(example, video_reference=_in_any_order(sample, context), pictures=True)


def video_reference(sample: LatentSample, context: TaskContext) -> Example:
    """A clip that follows a reference clip."""
    return _seen(sample, context, "video", _reference(sample, "video"))


def audio_reference(sample: LatentSample, context: TaskContext) -> Example:
    """A sound, and the picture where there is a branch for it, with the voice of a reference."""
    return _heard(sample, context, "audio")


def _heard(sample: LatentSample, context: TaskContext, read: str) -> Example:
    example = Example(
        caption_read_with(sample, read, context),
        audio=sound(sample),
        audio_reference=_reference(sample, "audio"),
        attends=_attends(context),
    )
    if "video" not in context.streams:
        return example
    video = picture(sample)
    return replace(example, video=video, condition=nothing_kept(video, context.black))


def _seen(sample: LatentSample, context: TaskContext, kind: str, latents: Tensor) -> Example:
    video = picture(sample)
    return Example(
        caption_read_with(sample, kind, context),
        video,
        nothing_kept(video, context.black),
        sound_if_heard(sample, context),
        video_reference=latents,
        attends=_attends(context),
    )


def _in_any_order(sample: LatentSample, context: TaskContext) -> Tensor:
    images = _reference(sample, "image")
    return images[:, torch.randperm(images.shape[1], generator=context.generator)]


def _reference(sample: LatentSample, kind: str) -> Tensor:
    return held(sample, sample.references.get(kind), f"reference.{kind}")


def _attends(context: TaskContext) -> bool:
    return not context.chance(context.settings.dropout.references)


def nothing_kept(video: Tensor, black: Tensor | None) -> VideoCondition:
    """The condition of text alone, for a clip (C, T, h, w) and the latent (C, 1, h, w) of a black image."""
    if black is None:
        raise ValueError("this bucket has no black image: its samples are sound alone")
    return VideoCondition.nothing(black[None], video.shape[1])


def region_kept(region: Region) -> VideoCondition:
    """All but a region is kept."""
    return VideoCondition(region.latents[None], region.keep_mask[None].to(region.latents))
