"""Measure this machine for the planner, and write what was measured into a calibration file.

    python benchmarks/calibrate.py --output cluster/calibration/cpu.yaml
    python benchmarks/calibrate.py --preset base --output cluster/calibration/h200.yaml      on such a GPU

The file that is there is the base, or --base: what was not measured stays as it is. Where a vendor publishes a peak,
the share of it that was reached is written; where none does, the figure itself. On a CPU a device is one worker with
--threads, timed in CPU seconds; what several workers take from each other is not in these figures, but for
collectives, which are timed by the clock between as many processes as a node has devices.
"""

import argparse
import platform
import socket
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

# This file is called as a script: its own folder would be first on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml

from model.config import load_preset
from model.costs.flops import Workload
from pipelines.training.cost.cluster import Calibration, ClusterSpec, Fact
from pipelines.training.cost.measure import copy_rate, fit_steps, matmul_rate, predicted_seconds, time_step
from skyreels.config import build, read_yaml

Batch = tuple[Workload, int]
Measured = Callable[[float, str], Fact]

FITTED: dict[str, tuple[Batch, ...]] = {
    "tiny": (
        (Workload(64, (1, 2, 2)), 1),
        (Workload(64, (5, 4, 4), audio=43), 1),
        (Workload(64, (5, 4, 4), audio=43), 6),
    ),
    "large": ((Workload(512, (1, 16, 28)), 1), (Workload(512, (21, 16, 28)), 1), (Workload(512, (16, 32, 32)), 1)),
}
"""(tokens, samples) of the timed steps: short ones, where launching layers shows, and long ones."""
CHECKED: dict[str, Batch] = {
    "tiny": (Workload(128, (9, 4, 4), audio=86), 2),
    "large": (Workload(512, (11, 32, 32), audio=109), 1),
}
"""Predicted from the others."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = Path(options.base or options.output)
    calibration = build(Calibration, read_yaml(base), origin=str(base))
    calibration = _devices(calibration, device, _measured(device, options))
    calibration = _steps(calibration, device, options)
    calibration = _links(calibration, device, _measured(device, options))
    for name, fact in calibration.facts():
        if fact.basis == "measured":
            print(f"{name:<28}{fact.value:>14.4g}  {fact.source}")
    _write(calibration, options.output)
    print(f"\n{options.output}")


def _devices(calibration: Calibration, device: str, measured: Measured) -> Calibration:
    """Products, copies, and what a process takes before any tensor of a model."""
    changed: dict[str, Any] = {"peak_flops": dict(calibration.peak_flops)}
    for precision, peak in calibration.peak_flops.items():
        if peak.basis != "vendor":
            changed["peak_flops"][precision] = measured(matmul_rate(precision, device), "a large matrix product")
    copied = copy_rate(device)
    if calibration.memory_bandwidth.basis == "vendor":
        changed["memory_efficiency"] = measured(copied / calibration.memory_bandwidth.value, "a copy")
    else:
        changed["memory_bandwidth"] = measured(copied, "a copy")
    if device == "cpu":
        import deepspeed  # noqa: F401

        import pipelines.training.learners.transformer  # noqa: F401
        import skyreels.training.worker  # noqa: F401

        resident = psutil.Process().memory_info().rss
        changed["process_bytes"] = measured(resident, "a process with all that a worker imports")
    return calibration.model_copy(update=changed)


def _steps(calibration: Calibration, device: str, options: argparse.Namespace) -> Calibration:
    """Efficiency by precision, and the overhead of a layer, of the preset's own training step."""
    config, measured = load_preset(options.preset).transformer, _measured(device, options)
    kind = "tiny" if options.preset == "tiny" else "large"
    changed: dict[str, Any] = {"compute_efficiency": dict(calibration.compute_efficiency)}
    for precision in ("bf16", "fp32") if device == "cpu" else ("bf16",):
        samples = [time_step(config, work, precision, device, batch=batch) for work, batch in FITTED[kind]]
        efficiency, overhead = fit_steps(samples, ClusterSpec("here", 1, calibration), precision)
        what = f"training steps of {options.preset}, {precision}"
        changed["compute_efficiency"][precision] = measured(efficiency, what)
        changed["layer_overhead"] = measured(overhead, what)
        fitted = ClusterSpec("here", 1, calibration.model_copy(update=changed))
        work, batch = CHECKED[kind]
        check = time_step(config, work, precision, device, batch=batch)
        ratio = predicted_seconds(check, fitted, precision) / check.seconds
        print(f"{precision}: a step that was not fitted took {check.seconds:.4g} s, predicted {ratio:.2f} times that")
    return calibration.model_copy(update=changed)


def _links(calibration: Calibration, device: str, measured: Measured) -> Calibration:
    """What an all-gather between all devices of this machine reaches."""
    ranks = torch.cuda.device_count() if device == "cuda" else calibration.devices_per_node
    if ranks < 2:
        print("one device: links keep their figures")
        return calibration
    rate, what = gather_rate(ranks), f"all-gather of {ranks} ranks of one machine"
    if calibration.device_link.basis == "vendor":
        changed = {"link_efficiency": measured(rate / calibration.device_link.value, what)}
    else:
        changed = {"device_link": measured(rate, what)}
    return calibration.model_copy(update=changed)


def gather_rate(ranks: int, size: int = 2**26) -> float:
    """Bytes/s that each of `ranks` processes of this machine receives in an all-gather of `size` bytes in all."""
    queue = mp.get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_gather, (ranks, size, port, queue), nprocs=ranks)
    return size * (ranks - 1) / ranks / float(queue.get())


def _gather(rank: int, ranks: int, size: int, port: int, queue: Any) -> None:
    """One process of `gather_rate`."""
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames the call; older versions lack the new name
    torch.set_num_threads(1)
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    piece = torch.ones(size // ranks, dtype=torch.uint8, device=device)
    whole = torch.empty(size // ranks * ranks, dtype=torch.uint8, device=device)
    times = []
    for _ in range(8):
        dist.barrier()
        began = time.perf_counter()
        dist.all_gather_into_tensor(whole, piece)
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    if rank == 0:
        queue.put(min(times))
    dist.destroy_process_group()


def _measured(device: str, options: argparse.Namespace) -> Measured:
    """Facts with where and when they were measured."""
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {options.threads} thread"
    where = f"{machine}, torch {torch.__version__}, {date.today()}"

    def fact(value: float, what: str) -> Fact:
        return Fact(value=float(f"{value:.4g}"), basis="measured", source=f"{what}; {where}")

    return fact


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def _write(calibration: Calibration, path: str) -> None:
    """Comments of the file that was there are kept at its head."""
    old = Path(path).read_text().splitlines() if Path(path).is_file() else []
    head = [line for line in old if line.startswith("#")]
    values = calibration.model_dump(exclude_none=True)
    body = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=1000)
    Path(path).write_text("\n".join([*head, body]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="the calibration file to write")
    parser.add_argument("--base", help="the calibration file to start from; default: --output")
    parser.add_argument("--preset", default="tiny", help="whose training step is timed")
    parser.add_argument("--threads", type=int, default=1, help="of one worker, on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
