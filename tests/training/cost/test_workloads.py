import dataclasses
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from model.costs.flops import forward_flops
from model.costs.memory import layer_tokens
from model.network.refiner import refined_clip
from pipelines.training.cost import Samples
from pipelines.training.cost.workloads import stage_items, stage_network
from pipelines.training.curriculum.resolve import load_stage, sampler_for, steps_for
from pipelines.training.data.assembler import Assembler, SparsitySchedule
from pipelines.training.latents.references import MOST_IMAGES
from pipelines.training.latents.sample import Extension, LatentSample, Region
from pipelines.training.latents.spec import Bucket, clip_shape

TEXT = 12
EVERY_TASK = {
    "video-3": (
        *("t2i", "t2v", "image_inpaint", "i2v", "start_end", "keyframes_at", "extend", "inpaint", "edit"),
        *("image_ref", "video_ref"),
    ),
    "sft-1": ("t2av", "t2v", "t2a", "v2a", "a2v", "i2v", "image_ref", "video_ref", "audio_ref", "image_audio_ref"),
    "audio": ("t2a",),
    "keyframes": ("keyframes",),
    "refiner": ("refine", "refine_inpaint"),
}


@dataclass
class Nothing:
    """What batches need beside their samples: the empty prompt, and black."""

    stage: object

    @property
    def null_text(self):
        return torch.zeros(TEXT, self.stage.preset.transformer.text_width)

    def black(self, bucket, *, large=False):
        side = 2 if large else 1
        _, size, *_ = bucket.split("-")
        shape = int(size.removesuffix("p")) // 8 * side
        return torch.zeros(16, 1, shape, shape)


def sample_of(stage, task, bucket):
    """A sample with everything any task may ask of that bucket, shaped as the cache's settings say."""
    preset, spec = stage.preset, stage.latents
    shape = clip_shape(bucket, spec, preset.video, preset.audio)
    forms = [
        *("short", "long", "structured"),
        *(f"structured+{kind}" for kind in ("image", "video", "audio", "image_audio")),
    ]
    forms += ["instruction", "instruction+video"]
    texts = {form: torch.zeros(TEXT, preset.transformer.text_width) for form in forms}
    reference = preset.audio.latent_length(round(spec.reference_seconds * preset.audio.sample_rate))
    heard = {"audio": torch.zeros(preset.audio.channels, reference)}
    if shape is None:
        length = preset.audio.latent_length(
            round(preset.video.nearest_frames(bucket.seconds * spec.fps) / spec.fps * preset.audio.sample_rate)
        )
        sound = torch.zeros(preset.audio.channels, length)
        return LatentSample("a", bucket.kind, bucket.name, None, None, sound, texts, references=heard)
    channels, frames, height, width = shape.video_latent_shape
    clip = torch.zeros(channels, frames, height, width)
    reference_frames = preset.video.latent_frames(preset.video.nearest_frames(spec.reference_seconds * spec.fps))
    seen = {
        "image": clip[:, :1].repeat(1, MOST_IMAGES, 1, 1),
        "video": clip if bucket.kind == "pair" else clip[:, :1].repeat(1, reference_frames, 1, 1),
    }
    large = torch.zeros(refined_clip(shape, preset.refiner).video_latent_shape)
    return LatentSample(
        "v",
        bucket.kind,
        bucket.name,
        shape,
        clip,
        torch.zeros(shape.audio_latent_shape) if shape.audio else None,
        texts,
        stills=clip,
        extensions=(Extension(clip[:, :1], False),),
        regions=(Region(clip, torch.ones(1, frames, height, width, dtype=torch.bool)),),
        references=seen | heard,
        large=large[:, :frames] if bucket.kind != "image" else large,
        refined=large,
        enlarged=large,
        refined_regions=(Region(large, torch.ones(1, *large.shape[1:], dtype=torch.bool)),),
    )


@pytest.mark.parametrize("name", EVERY_TASK)
def test_a_plan_counts_the_tokens_and_operations_that_training_runs(stage_of, name):
    tasks = EVERY_TASK[name]
    stage = stage_of(name, "tiny", "steps=1000", *(f"tasks.{task}=1" for task in tasks))
    network = stage_network(stage)
    sparsity = SparsitySchedule(start=stage.sparsity.final, final=stage.sparsity.final) if stage.sparsity else None
    assembler = Assembler(
        stage.preset, stage.branches, Nothing(stage), stage.settings, stage.flow, sparsity, stage.latents.fps
    )
    found = stage_items(stage, 1, Samples(), TEXT)
    assert {item.task for item in found} >= set(tasks)
    for item in found:
        sample = sample_of(stage, item.task, item.bucket)
        batch = assembler.undropped().batch(item.task, [sample], torch.Generator().manual_seed(0))
        assert batch.tokens == item.work.video_tokens + item.work.audio_tokens, item
        assert batch.flops == forward_flops(network, item.work), item


def test_epochs_show_every_sample_as_often_as_they_say(stage_of):
    stage = stage_of("video-3")
    data, slots = Samples(images=1e6, clips=4e5), 64
    items = stage_items(stage, slots, data)
    seen = dict.fromkeys(("image", "video", "pair"), 0.0)
    for item in items:
        seen[item.bucket.kind] += item.steps * slots * item.batch
    assert seen["image"] == pytest.approx(stage.recipe.epochs * data.images)
    assert seen["video"] + seen["pair"] == pytest.approx(stage.recipe.epochs * data.clips)
    t2i = sum(item.steps * slots * item.batch for item in items if item.task == "t2i")
    assert t2i / seen["image"] == pytest.approx(0.3 / 0.35)


def test_hours_of_sound_are_cut_into_pieces(stage_of):
    stage = stage_of("audio")
    items = stage_items(stage, 8, Samples(hours=1000))
    seconds = sum(item.steps * 8 * item.batch * item.bucket.seconds for item in items)
    assert seconds == pytest.approx(3 * 1000 * 3600)


def test_steps_that_are_set_are_split_by_share(stage_of):
    stage = stage_of("video-3", "tiny", "steps=500")
    by_task = {task: sum(i.steps for i in stage_items(stage, 2, Samples()) if i.task == task) for task in stage.mix}
    assert by_task == pytest.approx({task: 500 * share for task, share in stage.mix.items()})


def test_a_slot_holds_what_its_budget_allows(stage_of):
    stage = stage_of("video-5", "v4", "tokens_per_slot=40000")
    for item in stage_items(stage, 1, Samples(1e6, 1e6)):
        tokens = item.work.video_tokens + item.work.text
        assert item.batch == max(1, math.floor(40000 / tokens))


def test_the_sampler_draws_what_the_plan_prices(stage_of):
    """Of as many samples, shaped alike: the same steps by task, and every kind comes as often as the recipe says."""
    stage = stage_of("video-5", "v4", "slots=4", "workers=4", "optional=[edit]", "sequence_parallel=1")
    lengths, sizes = stage.lengths, stage.sizes
    shapes = [f"image-{size}p-16x9" for size in sizes], [f"video-{s}p-16x9-{t:g}s" for s in sizes for t in lengths]
    each = 40 * 60
    index = Index({name: each // len(names) for names in shapes for name in names}, stage)
    plan = dict.fromkeys(stage.mix, 0.0)
    items = [item for item in stage_items(stage, 4, Samples(each, each)) if item.task != "edit"]
    batches = {(item.task, item.bucket.name): item.work for item in items}
    sampler = sampler_for(stage, index, lambda task, bucket: layer_tokens(batches[task, bucket])[0])
    without = load_stage("video-5", stage.preset, ["slots=4", "workers=4", "tasks.edit=0", "sequence_parallel=1"])
    for item in stage_items(without, 4, Samples(each, each)):
        plan[item.task] += item.steps
    steps = steps_for(stage, sampler)
    assert steps == pytest.approx(sum(plan.values()), rel=0.05)
    drawn = Counter()
    for step in range(steps):
        draw = sampler.draw(step)
        drawn[draw.bucket.partition("-")[0]] += sum(map(len, draw.slots))
    for kind in ("image", "video"):
        # the last batch of a bucket is filled up
        assert drawn[kind] / each == pytest.approx(stage.recipe.epochs, rel=0.15)


class Index:
    """A cache whose samples have all that any task needs."""

    def __init__(self, counts, stage):
        self.shapes = {name: Bucket.parse(name, stage.latents) for name in counts}
        self.buckets = {name: [Stored(f"{name}/{i}", name) for i in range(count)] for name, count in counts.items()}


@dataclass
class Stored:
    key: str
    bucket: str
    has_audio = extensions = regions = refined = True
    references, texts = (), ("structured",)

    @property
    def kind(self):
        return self.bucket.partition("-")[0]


@pytest.mark.parametrize("name", ["video-6", "sft-1"])
def test_what_no_clip_leaves_room_for_is_not_priced(stage_of, name):
    """Clips last 15 s: a window of 15 s has no other times, and with references of 20 s no window has."""
    stage = stage_of(name, "v4", "steps=1000")
    lengths = {item.bucket.seconds for item in stage_items(stage, 8, Samples()) if item.task == "video_ref"}
    assert lengths == {length for length in stage.lengths if length + 3.1 <= 15}
    impossible = dataclasses.replace(stage, latents=stage.latents.model_copy(update={"reference_seconds": 20.0}))
    with pytest.raises(ValueError, match="_ref has no data: clips last 15 s at most"):
        stage_items(impossible, 8, Samples())
