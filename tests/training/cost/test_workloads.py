import math
from dataclasses import dataclass

import pytest
import torch

from model.costs.flops import forward_flops
from model.network.refiner import refined_clip
from pipelines.training.cost import Samples
from pipelines.training.cost.workloads import stage_items, stage_network
from pipelines.training.data.assembler import Assembler, SparsitySchedule
from pipelines.training.latents.sample import Extension, LatentSample, Region
from pipelines.training.latents.spec import clip_shape

TEXT = 12
EVERY_TASK = {
    "video-3": (
        *("t2i", "t2v", "image_inpaint", "i2v", "start_end", "keyframes_at", "extend", "inpaint", "edit"),
        *("image_ref", "video_ref"),
    ),
    "sft-1": ("t2av", "t2v", "t2a", "v2a", "a2v", "i2v", "image_ref", "video_ref", "audio_ref"),
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
    forms = [*("short", "long", "structured"), *(f"structured+{kind}" for kind in ("image", "video", "audio"))]
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
        "image": clip[:, :1],
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
