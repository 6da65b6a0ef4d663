"""Parameters, operations and memory of a preset, before anything is started: `python -m model.inspect v4`.

Models are built on the meta device: no weights, no GPU. Memory is for mixed precision under ZeRO-3: bf16 weights and
gradients, float32 master weights and two Adam moments, each sharded over all GPUs, and recomputed layers.
"""

import argparse
import dataclasses

from model.config import Preset, TransformerConfig, load_preset
from model.costs.flops import Workload, forward_flops
from model.costs.memory import TrainingSetup, meta_model, training_memory
from model.network.keyframes import keyframe_indices
from model.network.refiner import refined_clip, refiner_config
from model.shapes import ClipShape

TEXT_TOKENS = 512
GIBI = 2**30


def parameter_table(config: TransformerConfig) -> dict[str, int]:
    """Parameters by part; they sum to the model's."""
    parts: dict[str, int] = {}
    for name, parameter in meta_model(config).named_parameters():
        parts[_part(name, config.dual_blocks)] = parts.get(_part(name, config.dual_blocks), 0) + parameter.numel()
    return parts


def clip_of(preset: Preset, seconds: float, height: int, width: int, fps: float, *, audio: bool = True) -> ClipShape:
    """A clip of at least that size whose sides divide into patches: 1080 rows become 1088."""
    rows, columns = (
        stride * patch for stride, patch in zip(preset.video.stride[1:], preset.transformer.patch[1:], strict=True)
    )
    size = -(-height // rows) * rows, -(-width // columns) * columns
    return ClipShape.from_seconds(seconds, fps, *size, preset.video, preset.audio if audio else None)


def workload(
    config: TransformerConfig, clip: ClipShape, *, keyframes: ClipShape | None = None, **more: float
) -> Workload:
    """Tokens of a clip, with `keyframes` of another size; `more` are fields of `Workload`."""
    tokens = _grid(config, clip)
    extra = _grid(config, keyframes) if keyframes is not None else (0, 0, 0)
    count = extra[0] * extra[1] * extra[2]
    values = {"text": TEXT_TOKENS, "grid": tokens, "keyframes": count, "audio": clip.audio_latent_length, **more}
    return Workload(**values)  # type: ignore[arg-type]


def two_stage_flops(preset: Preset, clip: ClipShape, *, steps: int = 50, passes: int = 2) -> dict[str, float]:
    """Operations of one generated `clip` (at the final size and frame rate), made in one and in two stages.

    `passes` is conditional and unconditional in one batch; the refiner runs without guidance.
    """
    config, refiner = preset.transformer, preset.refiner
    base_clip = low_resolution_clip(preset, clip)
    keyframe_count = len(keyframe_indices(base_clip.latent_frames, refiner.keyframe_spacing))
    keyframes = dataclasses.replace(clip, frames=clip.video.frames_of(keyframe_count), audio=None)
    sparse = refiner_config(config, refiner)
    refined = workload(sparse, dataclasses.replace(clip, audio=None), sparsity=refiner.sparsity)
    slow = dataclasses.replace(clip, frames=base_clip.frames, fps=base_clip.fps)
    return {
        "base at full size and frame rate": steps * passes * forward_flops(config, workload(config, clip)),
        "base at full size, low frame rate": steps * passes * forward_flops(config, workload(config, slow)),
        "low resolution and keyframes": steps
        * passes
        * forward_flops(config, workload(config, base_clip, keyframes=keyframes)),
        "refiner": refiner.steps * forward_flops(sparse, refined),
    }


def low_resolution_clip(preset: Preset, clip: ClipShape) -> ClipShape:
    """What the base makes for the refiner to turn into at least `clip`."""
    space, time = preset.refiner.space_factor, preset.refiner.time_factor
    frames = clip.video.nearest_frames((clip.frames - 1) / time + 1)
    low = clip_of(preset, 1, -(-clip.height // space), -(-clip.width // space), clip.fps / time)
    return dataclasses.replace(low, frames=frames, audio=clip.audio)


def report(preset: Preset, clip: ClipShape, gpus: int) -> str:
    """The tables as text, for a base clip at the size given."""
    config = preset.transformer
    parts = parameter_table(config)
    lines = [
        f"{preset.name}: width {config.width}, {config.heads} heads, "
        f"{config.dual_blocks} dual + {config.single_blocks} single blocks",
        f"{clip.seconds:.2f} s of {clip.width} x {clip.height} at {clip.fps:g} fps",
    ]
    lines += ["", f"{'parameters':<44}{'millions':>12}"]
    lines += [f"{name:<44}{count / 1e6:>12,.1f}" for name, count in sorted(parts.items(), key=lambda item: -item[1])]
    lines += [f"{'all':<44}{sum(parts.values()) / 1e6:>12,.1f}"]
    lines += ["", f"{'task':<34}{'tokens':>10}{'forward TFLOP':>16}{'train TFLOP':>14}{'GiB per GPU':>14}"]
    for name, (settings, work) in _tasks(preset, clip).items():
        forward = forward_flops(settings, work) / 1e12
        memory = training_memory(settings, work, TrainingSetup(gpus)).total / GIBI
        tokens = work.video_tokens + work.audio_tokens
        lines.append(f"{name:<34}{tokens:>10,}{_figure(forward):>16}{_figure(4 * forward):>14}{_figure(memory):>14}")
    lines += ["", f"train: forward, backward and recomputed layers; batch 1, ZeRO-3 over {gpus} GPUs"]
    final = refined_clip(clip, preset.refiner)
    stages = two_stage_flops(preset, final)
    lines += ["", f"one clip of {final.width} x {final.height}, {final.fps:g} fps{'TFLOP':>30}"]
    lines += [f"{name:<44}{_figure(value / 1e12):>14}" for name, value in stages.items()]
    both = stages["low resolution and keyframes"] + stages["refiner"]
    for name in list(stages)[:2]:
        lines.append(f"{name + ' / two stages':<44}{stages[name] / both:>14.1f}")
    return "\n".join(lines)


def main() -> None:
    """Print the report of a preset."""
    parser = argparse.ArgumentParser(prog="python -m model.inspect", description=__doc__)
    parser.add_argument("preset", help="tiny, small, base, v4 or the path of a YAML file")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--gpus", type=int, default=8)
    options = parser.parse_args()
    preset = load_preset(options.preset)
    usual = preset.section("generation")
    seconds, height, width = (getattr(options, name) or usual[name] for name in ("seconds", "height", "width"))
    print(report(preset, clip_of(preset, seconds, height, width, usual["fps"]), options.gpus))


def _tasks(preset: Preset, clip: ClipShape) -> dict[str, tuple[TransformerConfig, Workload]]:
    """Workloads by name, each with the config that runs it."""
    config, refiner = preset.transformer, preset.refiner
    silent = dataclasses.replace(clip, audio=None)
    image = dataclasses.replace(silent, frames=1)
    reference = _grid(config, image)
    final = dataclasses.replace(refined_clip(clip, refiner), audio=None)
    sparse = refiner_config(config, refiner)
    count = len(keyframe_indices(clip.latent_frames, refiner.keyframe_spacing))
    keyframes = dataclasses.replace(final, frames=clip.video.frames_of(count))
    return {
        "text to image": (config, workload(config, image)),
        "text to video": (config, workload(config, silent)),
        "text to audio": (config, Workload(TEXT_TOKENS, audio=clip.audio_latent_length)),
        "text to video and audio": (config, workload(config, clip)),
        "with 3 reference images": (config, workload(config, clip, video_references=3 * reference[1] * reference[2])),
        "with high-resolution keyframes": (config, workload(config, clip, keyframes=keyframes)),
        "refiner, dense": (sparse, workload(sparse, final)),
        f"refiner, {refiner.sparsity:.1%} sparse": (sparse, workload(sparse, final, sparsity=refiner.sparsity)),
    }


def _grid(config: TransformerConfig, clip: ClipShape) -> tuple[int, int, int]:
    height, width = clip.latent_size
    return clip.latent_frames, height // config.patch[1], width // config.patch[2]


def _figure(value: float) -> str:
    """Three significant digits, and no exponent for large ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _part(name: str, dual_blocks: int) -> str:
    """Which line of the table a parameter belongs to."""
    parts = name.split(".")
    if parts[0] != "layers":
        return f"{parts[0]}: embeddings and head"
    if "reads" in parts[2]:
        return "attention between the branches"
    if parts[3].startswith("text_"):
        return f"{parts[2]}: text cross-attention"
    return f"{parts[2]}: {'dual' if int(parts[1]) < dual_blocks else 'single'}-stream blocks"


if __name__ == "__main__":
    main()
