"""What the sections of `gpu.py` stand on: where rows go, how long a run takes, and networks of the usual width."""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import TransformerConfig, load_preset
from model.network.mmdit import JointInputs, MMDiT
from model.network.modulation import Vector, gated_residual, modulated_norm
from model.network.rope import RotaryTable, rotate


@dataclasses.dataclass
class Record:
    """Rows of one section, in a file after every row: a section that is cut off leaves what it had."""

    path: Path
    small: bool
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def device(self) -> str:
        return "cpu" if self.small else "cuda"

    def add(self, what: str, value: float, unit: str, **more: Any) -> None:
        """`more`: baseline, ratio, goal (what `ratio`, else `value`, is held to: at least; `at_most` turns it)."""
        self.rows.append({"what": what, "value": value, "unit": unit, **more})
        name = "rehearsal" if self.small else torch.cuda.get_device_name()
        made = {"device": name, "torch": torch.__version__, "rows": self.rows}
        self.path.write_text(json.dumps(made, indent=1))

    def against(self, what: str, ours: float, baseline: float, goal: float | None = None) -> None:
        self.add(what, ours, "ms", baseline=baseline, ratio=baseline / ours, goal=goal)


def wide(record: Record, layers: int) -> TransformerConfig:
    """The base preset's video branch with `layers` layers."""
    config = load_preset("tiny" if record.small else "base").transformer
    dual = layers // 3
    wanted = dataclasses.replace(config, audio_channels=0, dual_blocks=dual, single_blocks=layers - dual)
    return wanted if record.small else dataclasses.replace(wanted, width=2048, heads=16)


def network(
    record: Record, config: TransformerConfig, grid: tuple[int, int, int], sparsity: float = 0.0
) -> tuple[MMDiT, JointInputs]:
    """A network in bf16, and inputs of `grid` tokens with 512 of text."""
    dtype = torch.float16 if record.small else torch.bfloat16
    with torch.device(record.device):
        model = MMDiT(config).to(dtype)
        inputs = JointInputs(
            text=torch.randn(1, 16 if record.small else 512, config.text_width),
            timesteps=torch.rand(1, 2),
            video=torch.randn(1, 2 * config.video_channels + 1, grid[0], 2 * grid[1], 2 * grid[2]),
            sparsity=sparsity,
        )
    return model, inputs


WARM_UPS, RUNS = 2, 7


def milliseconds(run: Callable[[], object], record: Record) -> float:
    """Median time of one run."""
    if record.small:
        run()
        begun = time.perf_counter()
        run()
        return (time.perf_counter() - begun) * 1e3
    for _ in range(WARM_UPS):
        run()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(RUNS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in itertools.pairwise(marks))


def elementwise_pieces(device: str, tokens: int, heads: int, width: int) -> dict[str, Callable[[], Tensor]]:
    """The functions of `model.network.elementwise` in bf16, on tokens of `heads` times `width` channels."""
    with torch.device(device):
        x, update = (torch.randn(1, tokens, heads * width).to(torch.bfloat16) for _ in range(2))
        shift, scale = (Vector(torch.randn(1, 1, heads * width)) for _ in range(2))
        table = RotaryTable(torch.randn(tokens, width), torch.randn(tokens, width))
    queries = x.unflatten(2, (heads, width)).transpose(1, 2)
    return {
        "modulated norm": lambda: modulated_norm(x, shift, scale),
        "gated residual": lambda: gated_residual(x, update, scale),
        "rotation": lambda: rotate(queries, table),
    }
