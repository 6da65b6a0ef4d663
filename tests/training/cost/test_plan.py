import dataclasses
import re

import pytest

from pipelines.training.cost import (
    CannotFit,
    Samples,
    cluster_of,
    machine_for,
    plan_stage,
    summary,
    with_fitting_groups,
)
from pipelines.training.cost.fit import remedies
from pipelines.training.cost.report import assumptions, breakdown, table
from pipelines.training.cost.workloads import stage_items
from pipelines.training.curriculum.recipe import STAGES
from skyreels.config import ConfigError

TRANSFORMERS = [name for name in STAGES if name != "codecs"]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_stage_of_the_paper_can_be_planned(planned, name):
    plan = plan_stage(*planned(name))
    assert plan.fits
    plan.check()
    assert plan.steps > 100
    assert 0.2 < plan.mfu < plan.cluster.calibration.compute_efficiency["bf16"].value
    assert plan.cost == pytest.approx(plan.device_hours * 3.0)


def test_days_are_little_more_than_what_products_alone_take(planned):
    """video-1 by hand: every token of 448 + 512 passes QKV, output and MLP (12 w^2) and either side of a text
    cross-attention (2 w^2) in 36 layers, four times over, for 3e9 pictures and 3 epochs."""
    plan = plan_stage(*planned("video-1"))
    flops = 3 * 3e9 * 4 * (448 + 512) * 2 * 14 * 4096**2 * 36
    days = flops / (512 * plan.cluster.compute_rate("bf16")) / 86400
    assert days < plan.seconds / 86400 < 1.4 * days


def test_the_longest_clip_is_refused_on_one_device_and_split_over_four(stage_of):
    """15 s at 1080p are 497,760 tokens, which hold 314 GiB with their activations."""
    cluster = cluster_of("h200", 256)
    stage = stage_of("video-6", "v4", "sequence_parallel=1")
    alone = plan_stage(stage, cluster)
    with pytest.raises(CannotFit, match=r"video-6 needs 314.* for t2v of video-1080p-16x9-15s"):
        alone.check()
    assert alone.remedies == ("sequence_parallel=4",)
    assert with_fitting_groups(stage, cluster).recipe.sequence_parallel == 4


def test_an_edit_costs_what_a_clip_does(stage_of):
    """Its source lies where the clip will, and not before it."""
    items = stage_items(stage_of("video-4", "v4"), 8, Samples(1e6, 1e6))
    tokens = {name: {i.work.video_tokens for i in items if i.task == name} for name in ("edit", "i2v")}
    assert len(tokens["i2v"]) > 3
    assert tokens["edit"] == tokens["i2v"]


def test_twice_the_devices_take_half_the_time(planned):
    slow, fast = (plan_stage(*planned("video-2", devices=devices)) for devices in (512, 1024))
    assert slow.seconds / fast.seconds == pytest.approx(2, rel=0.05)
    assert slow.device_hours == pytest.approx(fast.device_hours, rel=0.05)


def test_data_that_are_given_replace_the_papers(planned):
    stage, cluster = planned("sft-1")
    whole, tenth = plan_stage(stage, cluster), plan_stage(stage, cluster, Samples(clips=5e5))
    assert whole.steps / tenth.steps == pytest.approx(10, rel=0.01)
    with pytest.raises(ValueError, match="no steps: give steps, or data"):
        plan_stage(stage, cluster, Samples())


@pytest.mark.parametrize(
    ("name", "settings", "devices"),
    [
        ("video-5", ("activation_checkpointing=false",), 64),
        ("video-4", (), 8),
        ("video-5", (), 8),
        ("video-1", ("tokens_per_slot=2000000",), 64),
    ],
)
def test_what_cannot_fit_is_refused_with_settings_that_fit(stage_of, name, settings, devices):
    cluster = cluster_of("h100", devices)
    stage = stage_of(name, "v4", *settings)
    plan = plan_stage(stage, cluster)
    with pytest.raises(CannotFit, match=rf"{name} needs [\d,.]+ GiB on each of {devices} h100.*68.5 GiB can be filled"):
        plan.check()
    assert plan.remedies
    assert plan.remedies == remedies(stage, cluster)
    for remedy in plan.remedies:
        changed = dict(word.split("=") for word in remedy.split())
        larger = dataclasses.replace(cluster, devices=int(changed.pop("workers", devices)))
        given = (*settings, *(f"{key}={value}" for key, value in changed.items()))
        assert plan_stage(stage_of(name, "v4", *given), larger).fits, remedy


def test_nothing_is_proposed_where_nothing_helps(stage_of):
    cluster = dataclasses.replace(cluster_of("h100", 1))
    tight = cluster.calibration.memory_bytes.model_copy(update={"value": 3e9})
    cluster = dataclasses.replace(cluster, calibration=cluster.calibration.model_copy(update={"memory_bytes": tight}))
    plan = plan_stage(with_fitting_groups(stage_of("joint"), cluster), cluster)
    assert plan.remedies == ()
    with pytest.raises(CannotFit, match="a smaller preset, or shorter clips"):
        plan.check()


def test_a_cache_is_as_large_as_its_latents_and_texts(planned):
    """video-1 by hand: 3e9 pictures of 16 x 32 x 56 latents, twice, and 512 hidden states of 2048, in two bytes."""
    plan = plan_stage(*planned("video-1"))
    assert plan.cache_bytes == pytest.approx(3e9 * 2 * (2 * 16 * 32 * 56 + 512 * 2048))
    each = plan.items[0].batch * plan.items[0].sample_bytes * plan.slots
    assert plan.read_rate == pytest.approx(each / plan.step.total)


def test_groups_must_divide_devices_and_heads(stage_of):
    with pytest.raises(ValueError, match="sequence_parallel=3 must divide 8 devices and 32 heads"):
        plan_stage(stage_of("video-5", "v4", "sequence_parallel=3"), cluster_of("h200", 8))
    assert with_fitting_groups(stage_of("video-5"), cluster_of("h200", 1)).recipe.sequence_parallel == 1


def test_frozen_parameters_hold_no_optimizer(planned):
    stage, cluster = planned("joint", "v4", "freeze=['video.*', 'layers.*.video.*']")
    frozen, full = plan_stage(stage, cluster), plan_stage(*planned("joint"))
    assert frozen.parameters == full.parameters
    assert frozen.memory.optimizer / full.memory.optimizer == pytest.approx(frozen.trainable / full.trainable)
    assert 0.3 < frozen.trainable / full.trainable < 0.7
    between = plan_stage(*planned("joint", "v4", "freeze=[video, audio]"))
    assert 0 < between.trainable < frozen.trainable
    with pytest.raises(ConfigError, match="no parameter of this network matches 'vidoe'"):
        plan_stage(*planned("joint", "v4", "freeze=[vidoe]"))


def test_an_adapter_costs_a_copy_of_the_weights_and_little_more(stage_of):
    """bf16, by hand: 2 bytes of every parameter; of the adapter's gradient 4, master weight and moments 12."""
    cluster, added = cluster_of("h100", 8), 100_000_000
    full = plan_stage(stage_of("lora", "v4", "steps=100", "sequence_parallel=4"), cluster)
    plan = plan_stage(dataclasses.replace(full.stage, adapter=added), cluster)
    assert (plan.parameters, plan.trainable) == (full.parameters + added, added)
    assert plan.memory.states == pytest.approx((2 * plan.parameters + 16 * added) / 8)
    assert plan.memory.host == pytest.approx(12 * added / 8)
    assert plan.memory.activations == full.memory.activations
    assert (full.fits, plan.fits) == (False, True)
    assert 0.6 < plan.step.products / full.step.products < 0.8, "weights that stay need no gradients"
    assert plan.step.update < 0.01 * full.step.update
    assert re.search(r"model +[\d.]+ B parameters, 100.0 M of them learn", summary(plan))
    assert plan.steps == 100


def test_a_small_stage_fits_machine_for(stage_of):
    plan = plan_stage(stage_of("joint", "tiny"), machine_for(2, None, 0), text_tokens=128)
    assert plan.fits
    assert plan.cost is None
    text = summary(plan)
    assert re.search(r"model +10\.0 M parameters", text)
    assert re.search(rf"duration +{plan.steps:,} steps, about", text)


def test_the_report_says_what_limits_and_what_is_assumed(planned):
    plans = [plan_stage(*planned(name)) for name in ("video-1", "video-5")]
    lines = table(plans).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "video-1", "video-5", "all"]
    assert lines[1].endswith("products")
    assert lines[2].endswith("attention")
    text = assumptions(plans)
    for name, fact in plans[0].cluster.calibration.facts():
        assert name in text
        assert fact.basis != "assumed" or fact.source in text
    parts = breakdown(plans[0])
    held = re.search(r"all +([\d.]+)\n +can be filled +([\d.]+)", parts)
    assert float(held[1]) == pytest.approx(plans[0].needed / 2**30, abs=0.01)
    assert float(held[1]) < float(held[2])


def test_an_update_of_the_sound_branch_takes_as_many_sounds_as_the_public_one(stage_of):
    """Ovi: 2,880."""
    stage = stage_of("audio")
    items = stage_items(stage, stage.recipe.slots, Samples(hours=3e5))
    sounds = sum(item.steps * item.batch for item in items) / sum(item.steps for item in items) * stage.recipe.slots
    assert 2000 < sounds < 4000


def test_pictures_and_clips_of_a_stage_come_as_often_as_its_epochs_say(planned):
    plan = plan_stage(*planned("video-5"))
    seen = {"image": 0.0, "video": 0.0, "pair": 0.0}
    for item in plan.items:
        seen[item.bucket.kind] += item.steps * item.batch * plan.slots
    data = plan.stage.recipe.data
    assert seen["image"] / data.images == pytest.approx(plan.stage.recipe.epochs)
    assert (seen["video"] + seen["pair"]) / data.clips == pytest.approx(plan.stage.recipe.epochs)
