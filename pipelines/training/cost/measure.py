"""What one device of this machine does: matrix products, copies and training steps, timed.

On a CPU, times are CPU seconds of this process, which others on the machine change little; on a GPU, device seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.config import TransformerConfig
from model.costs.flops import Workload
from model.costs.memory import Precision, TrainingSetup
from model.network.inputs import JointInputs
from model.network.mmdit import MMDiT
from pipelines.training.cost.cluster import ClusterSpec
from pipelines.training.cost.step import step_time

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class StepSample:
    """One timed forward and backward pass: seconds of `batch` samples of `work`."""

    config: TransformerConfig
    work: Workload
    batch: int
    seconds: float


def matmul_rate(precision: Precision, device: str = "cpu", side: int | None = None) -> float:
    """FLOP/s of a large product of random values."""
    side = side or (8192 if device == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))
    return 2 * side**3 / fastest(lambda: a @ b, device)


def copy_rate(device: str = "cpu", size: int | None = None) -> float:
    """Bytes/s read and written by a copy that no cache holds."""
    source = torch.empty(size or (2**30 if device == "cuda" else 2**27), dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * source.numel() / fastest(lambda: target.copy_(source), device)


def time_step(
    config: TransformerConfig,
    work: Workload,
    precision: Precision,
    device: str = "cpu",
    *,
    batch: int = 1,
    runs: int = 3,
) -> StepSample:
    """Time forward and backward passes of the transformer, without an optimizer."""
    model = MMDiT(config).to(device, DTYPES[precision])
    inputs = random_inputs(config, work, batch, device)

    def step() -> None:
        outputs = model(inputs)
        parts = [part for part in (outputs.video, outputs.audio) if part is not None]
        torch.stack([part.square().mean() for part in parts]).sum().backward()
        model.zero_grad()

    return StepSample(config, work, batch, fastest(step, device, runs))


def fit_steps(samples: Sequence[StepSample], cluster: ClusterSpec, precision: Precision) -> tuple[float, float]:
    """(compute_efficiency, layer_overhead) that explain the timed steps best, beside what memory bandwidth explains.

    Least squares of relative errors, and neither below 0: a step takes layers * overhead + arithmetic / efficiency +
    elementwise work.
    """
    rows, rest = [], []
    for sample in samples:
        setup = TrainingSetup(1, sample.batch, precision, checkpointing=False)
        known = step_time(sample.config, sample.work, cluster, setup)
        arithmetic = (known.products + known.attention) * cluster.calibration.compute_efficiency[precision].value
        rows.append(np.array([arithmetic, sample.config.layers]) / sample.seconds)
        rest.append(1 - known.memory / sample.seconds)
    matrix, target = np.array(rows), np.array(rest)
    slope, overhead = np.linalg.lstsq(matrix, target, rcond=None)[0]
    if overhead < 0 or slope <= 0:
        slope, overhead = np.linalg.lstsq(matrix[:, :1], target, rcond=None)[0][0], 0.0
    if slope <= 0:
        raise ValueError("the timed steps take less than their elementwise work should: measure larger ones")
    return float(1 / slope), float(overhead)


def predicted_seconds(sample: StepSample, cluster: ClusterSpec, precision: Precision) -> float:
    """What the plan's formulas say such a step takes on one device."""
    setup = TrainingSetup(1, sample.batch, precision, checkpointing=False)
    step = step_time(sample.config, sample.work, cluster, setup)
    return step.products + step.attention + step.memory + step.launches


def fastest(run: Callable[[], object], device: str = "cpu", runs: int = 5) -> float:
    """Seconds of the fastest of `runs` runs, after one that warms up."""
    run()
    return min(_seconds(run, device) for _ in range(runs))


def random_inputs(config: TransformerConfig, work: Workload, batch: int, device: str = "cpu") -> JointInputs:
    """Inputs of as many tokens as `work` has in text, video grid and audio."""
    video = audio = None
    if work.grid:
        time_, height, width = work.grid
        size = (time_, height * config.patch[1], width * config.patch[2])
        video = torch.randn(batch, 2 * config.video_channels + 1, *size, device=device)
    if work.audio:
        audio = torch.randn(batch, config.audio_channels, work.audio, device=device)
    return JointInputs(
        text=torch.randn(batch, work.text, config.text_width, device=device),
        timesteps=torch.rand(batch, 2, device=device),
        video=video,
        audio=audio,
        audio_time_scale=0.1,
    )


def _seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    began = time.process_time()
    run()
    return time.process_time() - began
