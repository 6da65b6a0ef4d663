"""The formulas against this machine: calibrated on two steps, they foretell others."""

import dataclasses

import pytest
import torch

from model.config import load_preset
from model.costs.flops import Workload
from pipelines.training.cost import cluster_of
from pipelines.training.cost.measure import StepSample, copy_rate, fit_steps, matmul_rate, predicted_seconds, time_step

JOINT = load_preset("tiny").transformer
SILENT = dataclasses.replace(JOINT, audio_channels=0)


@pytest.fixture(scope="module")
def calibrated():
    """This machine's figures, from products, a copy, and a short and a long step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cluster = cluster_of("cpu", 1)
    facts = cluster.calibration
    peak = facts.peak_flops["fp32"].model_copy(update={"value": matmul_rate("fp32", side=512)})
    bandwidth = facts.memory_bandwidth.model_copy(update={"value": copy_rate(size=2**25)})
    facts = facts.model_copy(update={"peak_flops": {"fp32": peak}, "memory_bandwidth": bandwidth})
    cluster = dataclasses.replace(cluster, calibration=facts)
    works = [(SILENT, Workload(16, (1, 2, 2)), 1), (JOINT, Workload(32, (5, 4, 4), audio=43), 3)]
    samples = [time_step(config, work, "fp32", batch=batch, runs=2) for config, work, batch in works]
    efficiency, overhead = fit_steps(samples, cluster, "fp32")
    fitted = {
        "compute_efficiency": {"fp32": facts.compute_efficiency["fp32"].model_copy(update={"value": efficiency})},
        "layer_overhead": facts.layer_overhead.model_copy(update={"value": overhead}),
    }
    yield dataclasses.replace(cluster, calibration=facts.model_copy(update=fitted))
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("config", "work", "batch"),
    [
        (JOINT, Workload(48, (9, 4, 4), audio=86), 2),
        (SILENT, Workload(48, (1, 4, 4)), 4),
        (SILENT, Workload(16, (5, 8, 8)), 2),
    ],
)
def test_a_step_takes_about_what_was_foretold(calibrated, config, work, batch):
    sample = time_step(config, work, "fp32", batch=batch, runs=2)
    ratio = predicted_seconds(sample, calibrated, "fp32") / sample.seconds
    print(f"predicted {ratio:.2f} of {sample.seconds:.3f} s")
    assert 1 / 2.5 < ratio < 2.5


def test_efficiency_and_overhead_are_found_again(calibrated):
    """Steps made up from known figures give these figures back."""
    shapes = [(SILENT, Workload(16, (1, 2, 2)), 1), (JOINT, Workload(64, (9, 8, 8), audio=86), 4)]
    blank = [StepSample(config, work, batch, 0.0) for config, work, batch in shapes]
    made = [dataclasses.replace(one, seconds=predicted_seconds(one, calibrated, "fp32")) for one in blank]
    efficiency, overhead = fit_steps(made, calibrated, "fp32")
    assert efficiency == pytest.approx(calibrated.calibration.compute_efficiency["fp32"].value, rel=1e-3)
    assert overhead == pytest.approx(calibrated.calibration.layer_overhead.value, rel=1e-3, abs=1e-9)


def test_steps_faster_than_their_copies_are_refused(calibrated):
    wrong = StepSample(SILENT, Workload(512, (21, 32, 32)), 1, seconds=1e-4)
    with pytest.raises(ValueError, match="measure larger ones"):
        fit_steps([wrong, wrong], calibrated, "fp32")
