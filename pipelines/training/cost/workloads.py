"""What a stage's steps consist of: every task at every size and length, in tokens, and how often each comes."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from model.config import TransformerConfig
from model.costs.flops import Workload
from model.costs.memory import layer_tokens
from model.inspect import TEXT_TOKENS, workload
from model.network.keyframes import keyframe_indices
from model.network.refiner import refined_clip
from model.shapes import ClipShape
from pipelines.training.curriculum.recipe import training_preset
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.data.epochs import COUNTED_AS, steps_of_epoch
from pipelines.training.latents.references import MOST_IMAGES
from pipelines.training.latents.spec import Bucket, clip_shape, has_room, window_seconds
from pipelines.training.learners.network import network_config
from pipelines.training.tasks import TASKS

ASPECT = "16x9"
"""Of all pictures and clips, where the cache has it; the others have as many tokens or fewer."""
STORED_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
KINDS = ("image", "video", "audio")
REFINING = ("refine", "refine_inpaint")
"""Tasks that make the refined clip; all others make clips of the base."""


@dataclass(frozen=True)
class Samples:
    """How much data there is: pictures, clips, and hours of sound alone; and how they spread.

    `sizes` (short sides in pixels) and `lengths` (seconds) are relative shares, of which a stage has those that it
    trains at; what is not named has none. Empty: all come equally often.
    """

    images: float = 0.0
    clips: float = 0.0
    hours: float = 0.0
    sizes: tuple[tuple[int, float], ...] = ()
    lengths: tuple[tuple[float, float], ...] = ()

    def of(self, kind: str, seconds: float) -> float:
        """Samples of a kind; sound is counted in pieces of `seconds`."""
        return {"image": self.images, "video": self.clips, "audio": self.hours * 3600 / max(seconds, 1e-6)}[kind]

    def weight(self, size: int, seconds: float) -> float:
        """The relative share of one size and length; 0 stands for what has none: a picture's length, a sound's size."""
        of_size = dict(self.sizes).get(size, 0.0) if self.sizes and size else 1.0
        return of_size * (dict(self.lengths).get(seconds, 0.0) if self.lengths and seconds else 1.0)


@dataclass(frozen=True)
class Item:
    """One task at one size and length: a slot holds `batch` samples of `work`; `steps` global batches are of it."""

    task: str
    bucket: Bucket
    work: Workload
    batch: int
    sample_bytes: float
    steps: float = 0.0


def stage_network(stage: Stage) -> TransformerConfig:
    """The network that the stage trains."""
    return network_config(stage.preset, stage.branches)


def stage_items(stage: Stage, slots: int, samples: Samples, text: int = TEXT_TOKENS) -> list[Item]:
    """The global batches of a stage, `slots` micro-batches each.

    Where the stage sets its steps, they are split by the tasks' shares. Otherwise every kind of samples comes `epochs`
    times, as the sampler has it (`data/epochs.py`). Sizes and lengths hold samples by the shares of `samples`.
    """
    items = [item for task in stage.mix for item in _items(stage, task, text)]
    missing = [task for task in stage.mix if not any(_weight(item, samples) for item in items if item.task == task)]
    if missing:
        raise ValueError(
            f"{stage.name}: {missing[0]} has no samples at the shares given: name one of the sizes "
            f"{', '.join(map(str, stage.sizes))} and one of the lengths {', '.join(f'{s:g}' for s in stage.lengths)}"
        )
    if stage.steps:
        return _by_share(items, stage.mix, stage.steps, samples)
    return _by_data(items, stage, samples, slots)


def task_workload(stage: Stage, task: str, bucket: Bucket, text: int = TEXT_TOKENS) -> Workload:
    """Tokens of one sample of a task, as `pipelines.training.tasks` lays it out."""
    preset, spec, config = stage.preset, stage.latents, stage_network(stage)
    streams = TASKS[task].streams_of(stage.streams)
    reference = (
        round(spec.reference_seconds * preset.audio.sample_rate) if "audio" in TASKS[task].reference_kinds else 0
    )
    heard = preset.audio.latent_length(reference)
    clip = clip_shape(bucket, spec, preset.video, preset.audio)
    if clip is None or "video" not in streams:
        samples = round(window_seconds(bucket.seconds, spec, preset.video) * preset.audio.sample_rate)
        return Workload(text, audio=preset.audio.latent_length(samples), audio_references=heard)
    clip = clip if "audio" in streams else replace(clip, audio=None)
    if task in REFINING:
        sparsity = stage.sparsity.final if stage.sparsity else 0.0
        large = refined_clip(clip, preset.refiner)
        return workload(config, large, text=text, sparsity=sparsity)
    frame = workload(config, replace(clip, frames=1, audio=None)).sequence
    return workload(
        config,
        clip,
        keyframes=_keyframes(stage, clip) if task == "keyframes" else None,
        text=text,
        video_references=_seen(stage, task, clip) * frame,
        audio_references=heard,
    )


def _items(stage: Stage, task: str, text: int) -> Iterator[Item]:
    for bucket in _buckets(stage, task):
        work = task_workload(stage, task, bucket, text)
        batch = max(1, stage.recipe.tokens_per_slot // layer_tokens(work)[0])
        yield Item(task, bucket, work, batch, _stored(stage, work))


def _buckets(stage: Stage, task: str) -> Iterator[Bucket]:
    """All shapes of a task's samples; of a clip's sound where the task makes no picture."""
    heard = "video" not in TASKS[task].streams_of(stage.streams)
    aspect = ASPECT if ASPECT in stage.latents.aspects else stage.latents.aspects[0]
    lengths = _lengths(stage, task)
    for kind in TASKS[task].kinds:
        if kind == "audio" and (heard or not TASKS[task].kinds & {"video"}):
            yield from (Bucket("audio", seconds=length) for length in lengths)
        for size in stage.sizes if kind != "audio" and not heard else ():
            shape = f"{kind}-{size}p-{aspect}"
            names = [shape] if kind == "image" else [f"{shape}-{length:g}s" for length in lengths]
            yield from (Bucket.parse(name, stage.latents) for name in names)


def _lengths(stage: Stage, task: str) -> tuple[float, ...]:
    """Those at which a task finds samples: references lie beside the window, in clips no longer than the preset's.

    Raises ValueError where there is none.
    """
    if not TASKS[task].reference_kinds or TASKS[task].kind == "pair":
        return stage.lengths
    spec, longest = stage.latents, max(training_preset(stage.preset).lengths)
    roomy = [length for length in stage.lengths
             if has_room(longest, window_seconds(length, spec, stage.preset.video), spec)]  # fmt: skip
    if not roomy:
        raise ValueError(
            f"{stage.name}: {task} has no data: clips last {longest:g} s at most, which leaves a window of "
            f"{stage.lengths[0]:g} s no room for a reference of {spec.reference_seconds:g} s. Set the share to 0 "
            f"(tasks.{task}=0), or shorten references (the preset's training.latents.reference_seconds)"
        )
    return tuple(roomy)


def _by_share(items: Sequence[Item], mix: Mapping[str, float], steps: int, samples: Samples) -> list[Item]:
    """`steps` in all, over tasks by their shares, over a task's shapes as samples are."""
    batches = {item: _weight(item, samples) / item.batch for item in items}
    totals = {task: sum(batches[item] for item in items if item.task == task) for task in mix}
    return [replace(item, steps=steps * mix[item.task] * batches[item] / totals[item.task]) for item in items]


def _weight(item: Item, samples: Samples) -> float:
    return samples.weight(item.bucket.size, item.bucket.seconds)


def _by_data(items: Sequence[Item], stage: Stage, samples: Samples, slots: int) -> list[Item]:
    """`epochs` times all samples; tasks that find none leave their share to the rest."""
    shapes = {_shape(item.bucket) for item in items}
    held = {shape: _held(shape, shapes, samples) for shape in shapes}
    found = [item for item in items if held[_shape(item.bucket)]]
    batches = {item: held[_shape(item.bucket)] / (slots * item.batch) for item in found}
    tasks: dict[str, list[Item]] = {}
    for item in found:
        tasks.setdefault(item.task, []).append(item)
    totals = {task: sum(batches[item] for item in of_task) for task, of_task in tasks.items()}
    of_kind = {kind: sum(count for shape, count in held.items() if shape[0] == kind) for kind in KINDS}
    there = {kind for kind in ("pair", *KINDS) if of_kind[COUNTED_AS.get(kind, kind)]}
    steps = steps_of_epoch(
        {task: stage.mix[task] for task in tasks},
        {task: TASKS[task].kinds & there for task in tasks},
        of_kind,
        {task: sum(held[_shape(item.bucket)] for item in of_task) / totals[task] for task, of_task in tasks.items()},
    )
    epochs = stage.recipe.epochs
    return [replace(item, steps=epochs * steps[item.task] * batches[item] / totals[item.task]) for item in found]


Shape = tuple[str, int, str, float]
"""Kind as data are counted, size, aspect, length."""


def _shape(bucket: Bucket) -> Shape:
    return COUNTED_AS.get(bucket.kind, bucket.kind), bucket.size, bucket.aspect, bucket.seconds


def _held(shape: Shape, shapes: Collection[Shape], samples: Samples) -> float:
    """Samples of a shape, as the shapes of its kind share them."""
    alike = [(one, samples.weight(one[1], one[3])) for one in shapes if one[0] == shape[0]]
    total = sum(weight for _, weight in alike)
    if not total:
        return 0.0
    seconds = sum(one[3] * weight for one, weight in alike) / total
    return samples.of(shape[0], seconds) * samples.weight(shape[1], shape[3]) / total


def _keyframes(stage: Stage, clip: ClipShape) -> ClipShape:
    """A clip of as many latent frames as there are high-resolution keyframes."""
    count = len(keyframe_indices(clip.latent_frames, stage.preset.refiner.keyframe_spacing))
    large = refined_clip(clip, stage.preset.refiner)
    return replace(large, frames=clip.video.frames_of(count), audio=None)


def _seen(stage: Stage, task: str, clip: ClipShape) -> int:
    """Latent frames of visual references: images, or a clip of the cache's length."""
    if "video" in TASKS[task].reference_kinds:
        wanted = clip.video.nearest_frames(stage.latents.reference_seconds * stage.latents.fps)
        return clip.video.latent_frames(wanted)
    return MOST_IMAGES if "image" in TASKS[task].reference_kinds else 0


def _stored(stage: Stage, work: Workload) -> float:
    """Bytes that are read of one sample: its latents, once more as they are conditioned on, and its text."""
    preset = stage.preset
    video = 2 * work.video_tokens * preset.video.channels * math.prod(preset.transformer.patch)
    audio = work.audio_tokens * preset.audio.channels
    return STORED_BYTES[stage.latents.dtype] * (video + audio + work.text * preset.transformer.text_width)
