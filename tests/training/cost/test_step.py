import dataclasses

import pytest

from model.config import load_preset
from model.costs.flops import Workload, forward_flops
from model.costs.memory import TrainingSetup, parameter_counts
from pipelines.generation.costs.plan import call_seconds
from pipelines.training.cost import cluster_of
from pipelines.training.cost.measure import StepSample, predicted_seconds
from pipelines.training.cost.step import StepTime, step_time

CONFIG = load_preset("base").transformer
WORK = Workload(text=512, grid=(21, 34, 60), audio=109)
SETUP = TrainingSetup(64, batch=2)


def with_facts(cluster, **values):
    facts = {
        name: getattr(cluster.calibration, name).model_copy(update={"value": value}) for name, value in values.items()
    }
    return dataclasses.replace(cluster, calibration=cluster.calibration.model_copy(update=facts))


def test_arithmetic_is_four_forward_passes_with_recomputed_layers_and_three_without():
    cluster = cluster_of("h100", 64)
    forward = 2 * forward_flops(CONFIG, WORK) / cluster.compute_rate("bf16")
    for checkpointing, passes in ((True, 4), (False, 3)):
        step = step_time(CONFIG, WORK, cluster, dataclasses.replace(SETUP, checkpointing=checkpointing))
        assert step.products + step.attention == pytest.approx(passes * forward)


def test_zero_moves_all_weights_three_times_over_the_slower_links():
    cluster = cluster_of("h100", 64)
    step = step_time(CONFIG, WORK, cluster, SETUP)
    moved = 3 * 2 * parameter_counts(CONFIG)[0] * 63 / 64
    assert step.gathering == pytest.approx(moved / cluster.link_rate(64))
    alone = step_time(CONFIG, WORK, cluster_of("h100", 1), TrainingSetup(1))
    assert alone.gathering == 0


def test_only_branches_that_run_are_gathered():
    silent = Workload(text=512, grid=(21, 34, 60))
    cluster = cluster_of("h100", 64)
    of_joint = step_time(CONFIG, silent, cluster, SETUP)
    of_video = step_time(dataclasses.replace(CONFIG, audio_channels=0), silent, cluster, SETUP)
    assert of_joint.gathering == of_video.gathering < step_time(CONFIG, WORK, cluster, SETUP).gathering


def test_what_overlaps_is_hidden_and_never_more_than_there_is():
    base = cluster_of("h100", 64)
    steps = [step_time(CONFIG, WORK, with_facts(base, overlap=share), SETUP, sample_bytes=1e9) for share in (0.0, 1.0)]
    apart, hidden = steps
    busy = apart.products + apart.attention + apart.memory + apart.launches
    assert apart.total == pytest.approx(sum(apart.parts.values()))
    assert hidden.total - hidden.update == pytest.approx(max(busy, apart.gathering, apart.reading))
    assert apart.limit == hidden.limit == "reading"


def test_a_group_shares_the_work_and_pays_for_the_exchange():
    cluster = cluster_of("h100", 64)
    alone, shared = (step_time(CONFIG, WORK, cluster, dataclasses.replace(SETUP, sequence_parallel=n)) for n in (1, 4))
    assert shared.products == pytest.approx(alone.products / 4)
    assert shared.attention == pytest.approx(alone.attention / 4)
    assert (alone.exchange, shared.gathering) == (0, alone.gathering)
    assert shared.exchange > 0


def test_accumulation_repeats_everything_but_the_update():
    cluster = cluster_of("h100", 64)
    one, four = (step_time(CONFIG, WORK, cluster, SETUP, accumulation=count) for count in (1, 4))
    assert four.update == one.update
    assert four.total - four.update == pytest.approx(4 * (one.total - one.update))


def test_frozen_weights_save_their_gradients():
    cluster = cluster_of("h100", 64)
    frozen = step_time(CONFIG, WORK, cluster, dataclasses.replace(SETUP, trainable=0.0))
    full = step_time(CONFIG, WORK, cluster, SETUP)
    assert frozen.products == pytest.approx(3 / 4 * full.products)
    assert (frozen.attention, frozen.update) == (full.attention, 0)
    assert frozen.gathering == pytest.approx(2 / 3 * full.gathering)


def test_an_offloaded_optimizer_is_slower():
    cluster = cluster_of("h100", 64)
    away = step_time(CONFIG, WORK, cluster, dataclasses.replace(SETUP, offload=True))
    assert away.update > 10 * step_time(CONFIG, WORK, cluster, SETUP).update


def test_times_add_up():
    one = StepTime(*range(1, 8), update=8.0, hidden=3.0)
    assert (one + one).total == one.times(2).total == 2 * (36 - 3)


def test_kept_attention_saves_one_of_its_four_passes_and_nothing_else():
    cluster = cluster_of("h100", 64)
    again, kept = (
        step_time(CONFIG, WORK, cluster, dataclasses.replace(SETUP, keep_attention=keep)) for keep in (False, True)
    )
    assert kept.attention == pytest.approx(0.75 * again.attention)
    assert kept.products == again.products


WIDE = dataclasses.replace(load_preset("base").transformer, width=2048, heads=16, audio_channels=0)
THREE = dataclasses.replace(WIDE, dual_blocks=1, single_blocks=2)
SPARSE = dataclasses.replace(THREE, sparse=True, sparse_min_tokens=1)
SHORT, LONG = Workload(512, (11, 34, 60)), Workload(512, (41, 34, 60))
MEASURED_MS = (
    (dataclasses.replace(WIDE, dual_blocks=3, single_blocks=6), Workload(512, (16, 32, 32)), "step", 300.6),
    (THREE, SHORT, "forward", 52.3),
    (THREE, LONG, "forward", 417.3),
    (SPARSE, dataclasses.replace(SHORT, sparsity=0.875), "forward", 52.2),
    (SPARSE, dataclasses.replace(LONG, sparsity=0.875), "forward", 236.8),
)
"""Of docs/performance.md, on one H100."""


@pytest.mark.parametrize(("config", "work", "what", "measured"), MEASURED_MS)
def test_what_was_measured_on_an_h100_is_predicted(config, work, what, measured):
    cluster = cluster_of("h100", 1)
    if what == "step":
        seconds = predicted_seconds(StepSample(config, work, 1, measured / 1e3), cluster, "bf16")
    else:
        seconds = call_seconds(config, work, cluster)
    assert seconds * 1e3 == pytest.approx(measured, rel=0.15)
