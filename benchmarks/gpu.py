"""One section of `gpu.sh`, or the table of all that it wrote.

    python benchmarks/gpu.py sparse --output OUT/sparse.json
    python benchmarks/gpu.py report --output OUT

Times are CUDA events, the median of several runs after warm-up; baselines are measured in the same process.
`--rehearse` runs a section small, on a CPU, by the clock: that it works, not how fast.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# This file is called as a script: its own folder would be first on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_checks import check_blocks, check_gradients, check_kernel, relative_error
from benchmarks.gpu_tools import RUNS, Record, elementwise_pieces, milliseconds, network, wide
from model.config import load_preset
from model.costs.flops import Workload, forward_flops
from model.costs.memory import TrainingSetup, count_parameters, training_memory
from model.generation.streaming import stream_layers
from model.network.elementwise import compile_elementwise
from model.network.mmdit import JointInputs, MMDiT, predict
from model.network.sparse import attention as vsa
from model.network.sparse.attention import SparsePlan, sparse_attention

PEAK = 989e12
"""The vendor's bf16 FLOP/s of an H100 or H200 SXM, dense."""


def main() -> None:
    sections = {
        "blocks": blocks,
        "memory": memory,
        "elementwise": elementwise,
        "streamed": streamed,
        "joint": joint,
        "kernel": kernel,
        "sparse": sparse,
        "refiner": refiner,
        "mmdit": mmdit,
        "profile": profile,
        "tune": tune,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=[*sections, "report"])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    if options.section == "report":
        report(options.output)
        return
    torch.manual_seed(0)
    sections[options.section](Record(options.output, options.rehearse))


def kernel(record: Record) -> None:
    """The Triton kernels against the gather path in float64 on the CPU, forward and backward."""
    for what, error, bound in check_kernel(record.device, record.small):
        record.add(what, error, "relative error", goal=bound, at_most=True)


def sparse(record: Record) -> None:
    """Sparse against dense attention at 87.5 %, and where the time goes."""
    side = 8 if record.small else 32
    for grid, what, goal in (
        ((side, side, side), "forward", 4.0),
        ((2 * side, side, side), "forward", 5.0),
        ((side, side, side), "forward + backward", 4.0),
    ):
        compare_attention(record, grid, what, goal)
    parts_of_sparse(record, (side, side, side))


def compare_attention(record: Record, grid: tuple[int, int, int], what: str, goal: float) -> None:
    plan = SparsePlan(0, grid, 0.875, kernel="triton")
    train = "backward" in what
    q, k, v, gate = attention_inputs(record, plan.tokens, train)
    direction = torch.randn_like(q)

    def run(attention: Callable[[], Tensor]) -> Callable[[], None]:
        def once() -> None:
            with torch.set_grad_enabled(train):
                out = attention()
                if train:
                    torch.autograd.grad(out, (q, k, v), direction)

        return once

    dense = milliseconds(run(lambda: F.scaled_dot_product_attention(q, k, v)), record)
    begun = time.perf_counter()
    ours = milliseconds(run(lambda: sparse_attention(q, k, v, gate, plan)), record)
    record.against(f"sparse attention, {plan.tokens:,} tokens, {what}", ours, dense, goal)
    record.add(f"the same, first call and {RUNS} more", time.perf_counter() - begun, "s", goal=10, at_most=True)


def parts_of_sparse(record: Record, grid: tuple[int, int, int]) -> None:
    plan = SparsePlan(0, grid, 0.875, kernel="triton")
    q, k, v, _ = attention_inputs(record, plan.tokens, False)
    means = [vsa.cube_means(part, plan) for part in (q, k, v)]
    selected = vsa.select_cubes(means[0], means[1], plan.kept)
    parts: dict[str, Callable[[], object]] = {
        "means of cubes": lambda: [vsa.cube_means(part, plan) for part in (q, k, v)],
        "coarse stage": lambda: vsa.coarse_stage(*means),
        "selection": lambda: vsa.select_cubes(means[0], means[1], plan.kept),
        "fine stage, forward": lambda: vsa.fine_stage(q, k, v, selected, plan, None),
    }
    flops = 4 * q.shape[1] * plan.tokens * plan.kept * 64 * q.shape[-1]
    for what, run in parts.items():
        took = milliseconds(run, record)
        record.add(f"of it: {what}", took, "ms", tflops=flops / took / 1e9 if "fine" in what else None)
    q, k, v, _ = attention_inputs(record, plan.tokens, True)
    made = vsa.fine_stage(q, k, v, selected, plan, None)
    grad = torch.randn_like(made)
    took = milliseconds(lambda: torch.autograd.grad(made, (q, k, v), grad, retain_graph=True), record)
    record.add("of it: fine stage, backward", took, "ms", tflops=3.5 * flops / took / 1e9)


def attention_inputs(record: Record, tokens: int, train: bool) -> list[Tensor]:
    heads, width, dtype = (2, 16, torch.float16) if record.small else (16, 128, torch.bfloat16)
    return [
        torch.randn(1, tokens, heads, width, device=record.device, dtype=dtype).transpose(1, 2).requires_grad_(train)
        for _ in range(4)
    ]


def tune(record: Record) -> None:
    """Other launches of each kernel: what to write into `launch.LAUNCHES`."""
    from model.network.sparse import launch

    side = 8 if record.small else 32
    plan = SparsePlan(0, (side, side, side), 0.875, kernel="triton")
    q, k, v, _ = attention_inputs(record, plan.tokens, True)
    means = [vsa.cube_means(part.detach(), plan) for part in (q, k)]
    selected = vsa.select_cubes(*means, plan.kept)
    grad = torch.randn_like(q)
    for name in ("forward", "query_gradient", "key_gradients"):
        usual = launch.LAUNCHES[name]
        for warps, stages in ((4, 2), (4, 3), (8, 2), (8, 3), (4, 1), (4, 4)):
            launch.LAUNCHES[name] = launch.Launch(warps, stages)

            def once(train: bool = name != "forward") -> None:
                with torch.set_grad_enabled(train):
                    made = vsa.fine_stage(q, k, v, selected, plan, None)
                    if train:
                        torch.autograd.grad(made, (q, k, v), grad)

            try:
                record.add(f"{name}: {warps} warps, {stages} stages", milliseconds(once, record), "ms")
            except Exception as error:  # noqa: BLE001  (what a GPU cannot hold is an outcome of the search)
                record.add(f"{name}: {warps} warps, {stages} stages: {type(error).__name__}", float("nan"), "ms")
        launch.LAUNCHES[name] = usual


def refiner(record: Record) -> None:
    """Three layers of width 2048, one forward pass: sparse against dense, op by op and with elementwise kernels."""
    for compiled in (False, True):
        compile_elementwise(compiled)
        for frames, goal in ((11, 1.5), (41, 2.5)):
            grid, took = refiner_grid(record, frames), {}
            for name, (model, inputs) in refiners(record, grid):
                took[name] = milliseconds(lambda model=model, inputs=inputs: predict(model, inputs), record)
                del model
            tokens = grid[0] * grid[1] * grid[2]
            what = f"refiner, 3 layers, forward, {tokens:,} tokens{', compiled' if compiled else ''}"
            record.against(what, took["sparse"], took["dense"], goal)


def elementwise(record: Record) -> None:
    """Compiled elementwise work: right results in the blocks that hold it, and its time against op by op."""
    for precision, bound in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        worst = max(error for _, error in check_blocks(record.device, precision, compiled=True))
        record.add(f"all blocks, {str(precision)[6:]}", worst, "relative error", goal=bound, at_most=True)
    tokens, heads, width = (64, 2, 16) if record.small else (22_440, 16, 128)
    for what, run in elementwise_pieces(record.device, tokens, heads, width).items():
        took = {}
        for compiled in (False, True):
            compile_elementwise(compiled)
            took[compiled] = milliseconds(run, record)
        record.against(f"{what}, {tokens:,} tokens of {heads * width}", took[True], took[False])


def streamed(record: Record) -> None:
    """Layers that lie on the host and come one by one, against layers that stay: velocities, time, memory."""
    model, inputs = network(record, wide(record, layers=9), (2, 4, 4) if record.small else (16, 32, 32))
    made, took, held = [], [], []
    for how in ("resident", "streamed"):
        if how == "streamed":
            stream_layers(model, torch.device(record.device))
        if not record.small:
            torch.cuda.reset_peak_memory_stats()
        took.append(milliseconds(lambda: predict(model, inputs), record))
        made.append(predict(model, inputs).video)
        held.append(0 if record.small else torch.cuda.max_memory_allocated())
    record.add("streamed layers: velocities", relative_error(made[1], made[0]), "relative error", goal=0, at_most=True)
    record.against("streamed layers: forward, 9 layers, 16,384 tokens", took[1], took[0])
    record.add("streamed layers: peak", held[1] / 2**30, "GiB", resident_gib=held[0] / 2**30)


def profile(record: Record) -> None:
    """Which kernels the shorter of the refiner's passes spends its time in, dense and sparse, eager."""
    for name, (model, inputs) in refiners(record, refiner_grid(record, 11)):
        predict(model, inputs)
        with torch.profiler.profile() as profiler:
            predict(model, inputs)
        spent = [
            (event.key, event.self_cpu_time_total if record.small else event.self_device_time_total, event.count)
            for event in profiler.key_averages()
        ]
        for what, microseconds, count in sorted(spent, key=lambda row: -row[1])[:20]:
            record.add(f"{name}: {what[:100]}", microseconds / 1e3, "ms", count=count)


def refiner_grid(record: Record, frames: int) -> tuple[int, int, int]:
    return (5, 8, 8) if record.small else (frames, 34, 60)


def refiners(record: Record, grid: tuple[int, int, int]) -> Iterator[tuple[str, tuple[MMDiT, JointInputs]]]:
    """The dense and the sparse one, one at a time, each with its inputs."""
    dense_config = wide(record, layers=3)
    sparse_config = dataclasses.replace(dense_config, sparse=True, sparse_min_tokens=1, sparse_kernel="triton")
    for name, config in {"dense": dense_config, "sparse": sparse_config}.items():
        yield name, network(record, config, grid, sparsity=0.875 if config.sparse else 0.0)


def blocks(record: Record) -> None:
    """Every module of the network, weights drawn anew, given equal inputs: this device against float64 on a CPU."""
    for precision, bound in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        worst: dict[str, float] = {}
        for kind, error in check_blocks(record.device, precision):
            worst[kind] = max(error, worst.get(kind, 0.0))
        for kind, error in sorted(worst.items()):
            record.add(f"{kind}, {str(precision)[6:]}", error, "relative error", goal=bound, at_most=True)
    for precision, bound in ((torch.float32, 1e-3), (torch.bfloat16, 1e-1)):
        error = check_gradients(record.device, precision)
        record.add(f"all gradients, {str(precision)[6:]}", error, "relative error", goal=bound, at_most=True)


def mmdit(record: Record) -> None:
    """A step of the video branch, 9 layers of 2048: eager, with elementwise kernels, and with compiled layers."""
    grid = (2, 4, 4) if record.small else (16, 32, 32)
    config = wide(record, layers=9)
    model, inputs = network(record, config, grid)
    flops = 3 * forward_flops(config, Workload(text=inputs.text.shape[1], grid=grid))

    def step() -> None:
        model(inputs).video.square().mean().backward()
        model.zero_grad(set_to_none=True)

    for how in ("eager", "elementwise compiled", "compiled"):
        compile_elementwise(how == "elementwise compiled")
        if how == "compiled":
            if record.small:
                return
            for layer in model.layers:
                layer.compile()
        begun = time.perf_counter()
        took = milliseconds(step, record)
        mfu = flops / took * 1e3 / PEAK
        what = f"video branch, 9 layers, step, {how}, {count_parameters(model) / 1e6:.0f} M"
        record.add(what, took, "ms", tflops=flops / took / 1e9)
        record.add(f"{how}: MFU", mfu, "of 989 TFLOP/s", goal=0.6 if how == "compiled" else None)
        record.add(f"{how}: first call and {RUNS} more", time.perf_counter() - begun, "s")


def memory(record: Record) -> None:
    """Peak of a step above weights and gradients, against what the planner says of activations."""
    if record.small:
        return
    grid = (16, 32, 32)
    for layers in (3, 9):
        for checkpointing in (False, True):
            config = wide(record, layers)
            model, inputs = network(record, config, grid)
            model.gradient_checkpointing = checkpointing
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            model(inputs).video.square().mean().backward()
            peak = torch.cuda.max_memory_allocated() - before
            setup = TrainingSetup(gpus=1, checkpointing=checkpointing)
            said = training_memory(config, Workload(text=512, grid=grid), setup).activations
            what = f"activations, {layers} layers, {'recomputed' if checkpointing else 'kept'}: over the planner's"
            record.add(what, peak / said, "times", measured_gib=peak / 2**30, planned_gib=said / 2**30)
            del model


def joint(record: Record) -> None:
    """The tiny network's joint step with its optimizer: launched one by one, and captured in a graph."""
    config = load_preset("tiny").transformer
    model = MMDiT(config).to(record.device)
    batch = 2
    inputs = JointInputs(
        text=torch.randn(batch, 32, config.text_width, device=record.device),
        timesteps=torch.rand(batch, 2, device=record.device),
        video=torch.randn(batch, 2 * config.video_channels + 1, 5, 8, 8, device=record.device),
        audio=torch.randn(batch, config.audio_channels, 43, device=record.device),
        audio_time_scale=0.12,
    )
    captured = not record.small
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=captured)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        made = model(inputs)
        (made.video.square().mean() + made.audio.square().mean()).backward()
        optimizer.step()

    eager = milliseconds(step, record)
    record.add("tiny joint step, eager, batch 2", eager, "ms")
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        record.add(
            "tiny joint step, captured, batch 2", milliseconds(graph.replay, record), "ms", goal=15, at_most=True
        )


def report(folder: Path) -> None:
    """All rows of all sections; what misses its goal is marked."""
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        made = json.loads(path.read_text())
        print(f"\n{path.stem} ({made['device']}, torch {made['torch']})")
        for row in made["rows"]:
            held = row.get("ratio", row["value"])
            text = f"  {row['what']:<62}{row['value']:>10.3g} {row['unit']:<14}"
            if "ratio" in row:
                text += f" {row['baseline']:.3g} / it = {row['ratio']:.2f}"
            if row.get("tflops"):
                text += f" {row['tflops']:.0f} TFLOP/s"
            if row.get("goal") is not None:
                met = held <= row["goal"] if row.get("at_most") else held >= row["goal"]
                text += f" ({'<=' if row.get('at_most') else '>='} {row['goal']:g}{'' if met else ': MISSED'})"
            print(text)


if __name__ == "__main__":
    main()
