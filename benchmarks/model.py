"""The transformer against its neighbours and sparse attention against dense, as ratios measured in one run.

    OMP_NUM_THREADS=1 python benchmarks/model.py            # everything this machine can measure
    python benchmarks/model.py training vsa                 # some of it
    python benchmarks/model.py gpu                          # on a CUDA device: sparse attention and MFU

Contestants take turns, each figure is the median of its turns, and on a CPU time is CPU seconds of the process, so
that a busy machine does not decide the ratio.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# This file is called as the package it measures: with its own folder first on the path it would import itself.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_tools import elementwise_pieces
from benchmarks.model_sampling import PLAIN, sampling_cases
from model.config import TransformerConfig, load_preset
from model.costs.flops import Workload, forward_flops
from model.inspect import clip_of, two_stage_flops
from model.network.elementwise import compile_elementwise
from model.network.keyframes import KeyframeInput
from model.network.mmdit import JointInputs, JointOutputs, MMDiT, predict
from model.network.refiner import refiner_condition, refiner_config
from model.network.sparse.attention import SparsePlan, sparse_attention

WIDTH, HEADS, LAYERS, TEXT = 256, 4, 6, 16
VIDEO = (5, 32, 32)
"""Latents (T, H, W): 1,280 tokens. 16 of text beside them are the share of 512 beside 5 s at 544 x 960."""
AUDIO = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_a_cpu = {"training": training, "vsa": vsa, "stages": stages, "sampling": sampling, "elementwise": elementwise}
    known = {**on_a_cpu, "gpu": gpu}
    usual = ["gpu"] if torch.cuda.is_available() else list(on_a_cpu)
    parser.add_argument(
        "sections", nargs="*", metavar="section", help=f"of {', '.join(known)}; default: {', '.join(usual)}"
    )
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    unknown = set(options.sections) - known.keys()
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    for name in options.sections or usual:
        known[name](options.turns)


def training(turns: int) -> None:
    """One training step, forward and backward: tokens per second against diffusers at equal width, depth, tokens."""
    heading("training step, forward + backward", "tokens/s", "ratio")
    tokens = VIDEO[0] * VIDEO[1] * VIDEO[2] // 4
    times = alternate({"ours, video": our_step(audio=0), "Wan": wan_step()}, turns)
    row("diffusers WanTransformer3DModel", tokens / times["Wan"])
    row("MMDiT, video branch", tokens / times["ours, video"], times["Wan"] / times["ours, video"])
    tokens += AUDIO
    times = alternate({"ours, joint": our_step(audio=AUDIO), "LTX-2": ltx2_step()}, turns)
    row("diffusers LTX2VideoTransformer3DModel", tokens / times["LTX-2"])
    row("MMDiT, video and audio", tokens / times["ours, joint"], times["LTX-2"] / times["ours, joint"])


def our_step(audio: int) -> Callable[[], None]:
    config = TransformerConfig(
        width=WIDTH,
        heads=HEADS,
        dual_blocks=LAYERS // 3,
        single_blocks=LAYERS - LAYERS // 3,
        text_width=WIDTH,
        video_channels=16,
        audio_channels=32 if audio else 0,
    )
    inputs = JointInputs(
        text=torch.randn(1, TEXT, WIDTH),
        timesteps=torch.rand(1, 2),
        video=torch.randn(1, 33, *VIDEO),
        audio=torch.randn(1, 32, audio) if audio else None,
        audio_time_scale=VIDEO[0] / AUDIO,
    )
    model = MMDiT(config)

    def step() -> None:
        outputs = model(inputs)
        sum(part.square().mean() for part in (outputs.video, outputs.audio) if part is not None).backward()
        model.zero_grad()

    return step


def wan_step() -> Callable[[], None]:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=33,
        out_channels=16,
        text_dim=WIDTH,
        ffn_dim=4 * WIDTH,
        num_layers=LAYERS,
    )
    latents, text, timestep = torch.randn(1, 33, *VIDEO), torch.randn(1, TEXT, WIDTH), torch.tensor([500.0])
    return diffusers_step(model, lambda: [model(latents, timestep, text, return_dict=False)[0]])


def ltx2_step() -> Callable[[], None]:
    from diffusers import LTX2VideoTransformer3DModel

    model = LTX2VideoTransformer3DModel(
        in_channels=33 * 4,
        out_channels=16 * 4,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        cross_attention_dim=WIDTH,
        audio_in_channels=32,
        audio_out_channels=32,
        audio_num_attention_heads=HEADS,
        audio_attention_head_dim=WIDTH // HEADS,
        audio_cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        num_layers=LAYERS,
    )
    time_, height, width = VIDEO[0], VIDEO[1] // 2, VIDEO[2] // 2
    video, audio = torch.randn(1, time_ * height * width, 33 * 4), torch.randn(1, AUDIO, 32)
    text, timestep = torch.randn(1, TEXT, WIDTH), torch.tensor([500.0])

    def forward() -> list[Tensor]:
        return list(
            model(
                video,
                audio,
                text,
                text,
                timestep,
                num_frames=time_,
                height=height,
                width=width,
                audio_num_frames=AUDIO,
                return_dict=False,
            )
        )

    return diffusers_step(model, forward)


def diffusers_step(model: nn.Module, forward: Callable[[], list[Tensor]]) -> Callable[[], None]:
    model.train()

    def step() -> None:
        sum(part.square().mean() for part in forward()).backward()
        model.zero_grad()

    return step


def elementwise(turns: int) -> None:
    """Compiled elementwise work against op by op: 5,610 tokens of a refiner of width 2048, and a whole step."""
    heading("elementwise work, op by op and compiled", "ms", "ratio")
    work = {name: (run, "bf16, 5,610 x 2,048") for name, run in elementwise_pieces("cpu", 5610, 16, 128).items()}
    work["training step, video branch"] = (our_step(audio=0), "fp32, as above")

    def switched(run: Callable[[], object], on: bool) -> Callable[[], None]:
        def once() -> None:
            compile_elementwise(on)
            run()

        return once

    for name, (run, how) in work.items():
        times = alternate({"op by op": switched(run, False), "compiled": switched(run, True)}, turns)
        row(f"{name}, {how}, op by op", 1e3 * times["op by op"])
        row("compiled", 1e3 * times["compiled"], times["op by op"] / times["compiled"])
    compile_elementwise(False)


def vsa(turns: int) -> None:
    """Sparse attention, coarse and fine, at 87.5 % sparsity against dense attention of the same tokens."""
    heading("sparse attention, CPU, fp32, 4 heads of 64, 87.5 %", "ms", "ratio")
    for side, what in ((32, "forward + backward"), (64, "forward + backward")):
        compare_attention((16, 16, side), "gather", what, turns)
    for side in (16, 32):
        compare_attention((16, 16, side), "flex", "forward", turns)


def compare_attention(grid: tuple[int, int, int], kernel: str, what: str, turns: int, device: str = "cpu") -> None:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    heads, width = (4, 64) if device == "cpu" else (16, 128)
    plan = SparsePlan(0, grid, 0.875, kernel=kernel)
    q, k, v, gate = (
        torch.randn(1, heads, plan.tokens, width, device=device, dtype=dtype, requires_grad="backward" in what)
        for _ in range(4)
    )

    def run(attention: Callable[[], Tensor]) -> Callable[[], None]:
        def once() -> None:
            if "backward" not in what:
                with torch.no_grad():
                    attention()
                return
            attention().backward(v.detach())

        return once

    times = alternate(
        {
            "dense": run(lambda: F.scaled_dot_product_attention(q, k, v)),
            "sparse": run(lambda: sparse_attention(q, k, v, gate, plan)),
        },
        turns,
        device,
    )
    name = f"{plan.tokens:,} tokens, {kernel}, {what}"
    row(f"{name}: dense", times["dense"] * 1e3)
    row(f"{name}: sparse", times["sparse"] * 1e3, times["dense"] / times["sparse"])


def stages(turns: int) -> None:
    """Low resolution with keyframes, then the refiner, against the base at full size: counted, and timed when tiny."""
    for name in ("base", "v4"):
        preset = load_preset(name)
        heading(f"one 5 s clip of 1920 x 1088 at 32 fps, {name}", "PFLOP", "ratio")
        flops = two_stage_flops(preset, clip_of(preset, 5, 1080, 1920, 32))
        both = flops["low resolution and keyframes"] + flops["refiner"]
        for what, value in flops.items():
            row(what, value / 1e15, value / both if what.startswith("base") else None)
    heading("the same at tiny size, timed", "s", "ratio")
    times = alternate(tiny_stages(), turns)
    for what, value in times.items():
        row(what, value, times["base at full size"] / value if what == "two stages" else None)


def tiny_stages() -> dict[str, Callable[[], None]]:
    """A 256 x 256 clip of 33 frames: 9 x 16 x 16 tokens at full size, 5 x 8 x 8 and 2 keyframes at low size."""
    preset = load_preset("tiny")
    config = dataclasses.replace(preset.transformer, audio_channels=0)
    base = MMDiT(config).eval()
    refiner = MMDiT(refiner_config(config, preset.refiner)).eval()
    text, passes = torch.randn(2, TEXT, config.text_width), 2
    steps, refiner_steps = 10, 2
    low, full = torch.randn(passes, 33, 5, 16, 16), torch.randn(passes, 33, 9, 32, 32)
    keyframes = KeyframeInput(torch.randn(passes, 33, 2, 32, 32), (0, 4))
    levels = torch.full((passes, 2), 0.5)

    def sample(video: Tensor, **more: KeyframeInput) -> JointOutputs:
        for _ in range(steps):
            outputs = predict(base, JointInputs(text, levels, video=video, **more))
        return outputs

    def two_stages() -> None:
        outputs = sample(low, keyframes=keyframes)
        condition = refiner_condition(
            outputs.video[:1], (9, 32, 32), keyframes=outputs.keyframes[:1], keyframe_indices=keyframes.indices
        )
        video = condition.channels(torch.randn(1, 16, 9, 32, 32))
        for _ in range(refiner_steps):
            predict(refiner, JointInputs(text[:1], levels[:1], video=video, sparsity=preset.refiner.sparsity))

    return {"base at full size": lambda: sample(full) and None, "two stages": two_stages}


def sampling(turns: int) -> None:
    """Guided sampling against one plain call of the model per pass; every case is timed while the others wait."""
    # glibc gives large blocks back to the system after every use until one as large as this was freed: page faults
    # then cost the larger batches a tenth. Loading any real model frees such blocks.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    heading("guided sampling, video and audio, tiny preset, 1 s of 64 x 64", "s", "ratio")
    for case, contestants in sampling_cases():
        times = alternate(contestants, turns)
        for what, value in times.items():
            row(f"{case}: {what}", value, times[PLAIN] / value)


def gpu(turns: int) -> None:
    """Sparse attention from 32k tokens, and the share of the device's bf16 peak the base transformer reaches."""
    heading(f"{torch.cuda.get_device_name()}, bf16, 16 heads of 128, 87.5 %", "ms", "ratio")
    for grid in ((32, 32, 32), (32, 64, 32)):
        for what in ("forward", "forward + backward"):
            compare_attention(grid, "flex", what, turns, "cuda")
    peak = measured_peak(turns)
    heading(
        f"base transformer, 16k tokens, bf16; a plain matrix product reaches {peak / 1e12:.0f} TFLOP/s", "ms", "MFU"
    )
    config = dataclasses.replace(load_preset("base").transformer, audio_channels=0)
    work = Workload(text=512, grid=(16, 32, 32))
    model = MMDiT(config).to("cuda", torch.bfloat16)
    inputs = JointInputs(
        text=torch.randn(1, 512, config.text_width, device="cuda"),
        timesteps=torch.rand(1, 2, device="cuda"),
        video=torch.randn(1, 2 * config.video_channels + 1, 16, 64, 64, device="cuda"),
    )
    for layer in model.layers:
        layer.compile()
    flops = forward_flops(config, work)

    def forward() -> None:
        predict(model, inputs)

    def step() -> None:
        model(inputs).video.square().mean().backward()

    for what, run, factor in (("forward", forward, 1), ("forward + backward", step, 3)):
        seconds = alternate({what: run}, turns, "cuda")[what]
        row(f"{what}: of the vendor's 989 TFLOP/s", seconds * 1e3, factor * flops / seconds / 989e12)
        row(f"{what}: of the measured product", seconds * 1e3, factor * flops / seconds / peak)


def measured_peak(turns: int) -> float:
    """FLOP/s of a large bf16 matrix product of random values on this device."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / alternate({"product": lambda: a @ b and None}, turns, "cuda")["product"]


def alternate(contestants: Mapping[str, Callable[[], object]], turns: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each, taking turns after one warm-up each."""
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            times[name].append(gpu_seconds(run) if device == "cuda" else cpu_seconds(run))
    return {name: statistics.median(values) for name, values in times.items()}


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of the process."""
    start = time.process_time()
    run()
    return time.process_time() - start


def gpu_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Device seconds of one run, over several in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def heading(title: str, unit: str, ratio: str) -> None:
    print(f"\n{title:<68}{unit:>12}{ratio:>8}")


def row(name: str, value: float, ratio: float | None = None) -> None:
    print(f"  {name:<66}{value:>12,.2f}" + (f"{ratio:>8.2f}" if ratio is not None else ""), flush=True)


if __name__ == "__main__":
    main()
