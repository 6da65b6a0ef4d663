"""A prompt, and media if wanted, to a clip with sound.

    python jobs/generate.py --model runs/train/model --prompt "a red ball falls with a thud" --output clip.mp4
    python jobs/generate.py --model M --prompt "it rolls on" --image ball.png --seconds 2 --size 96x64 --output clip.mp4
    python jobs/generate.py --model M --prompt "grass" --video clip.mp4 --mask region.png --output inpainted.mp4
    python jobs/generate.py --model M --prompt "grass" --video clip.mp4 --remove text,logo --output without.mp4
    python jobs/generate.py --model M --prompt "@ball falls in @room" --reference @ball=a.png --reference @ball=b.png \\
        --reference @room=room.mp4 --output clip.mp4
    python jobs/generate.py --model M --prompt "rain on a tin roof" --output rain.flac
    python jobs/generate.py --model M --prompt "a long day" --seconds 30 --window 5 --output clip.mp4  in windows
    python jobs/generate.py --model M --prompt "a red ball" --clips 4 --seed 1 --output clip.mp4       clip-1.mp4, ...

    python jobs/generate.py --model M --prompt "a long day" --seconds 15 --ranks 8 --output clip.mp4    on eight GPUs
    python jobs/generate.py --preset v4 --size 1920x1088 --seconds 15 --fps 32 --refine --dry-run --gpu h200

The suffix of --output says what is made: .mp4 video (with sound unless --no-sound), .wav or .flac sound alone, .png or
.jpg one picture. A record of the request, the seed, the model and the times is written beside it as .json.
"""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from model.config import load_preset
from model.generation.components import read_spec
from model.generation.prepared import Prepared, VideoUse
from model.generation.prompts import render_prompt
from model.generation.steps import Progress as Step
from model.generation.wire import from_bytes, to_bytes
from model.generator import Generator
from model.inspect import clip_of
from model.network.elementwise import compile_elementwise
from pipelines.generation.costs.plan import MOST_RANKS, plan_clip, plan_table
from pipelines.generation.enhance import add_enhancer, asked_enhancer
from pipelines.generation.finishing import add_finishing, load_finish
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.ranks import Voted, follow, run_on_ranks, share
from pipelines.generation.removal import told_regions, with_regions
from pipelines.generation.render import SUFFIXES, Output, Rendered, Stopwatch, open_output, output_kind, render
from pipelines.generation.request import GenerationRequest, Holds, RequestError
from pipelines.generation.windows import Windows, windows_of
from pipelines.training.cost import cluster_of
from skyreels.command_line import exit_status
from skyreels.config import build
from skyreels.progress import Progress
from skyreels.training.ulysses import UlyssesRanks

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_REFERENCES = (
    "an image, clip or sound that the prompt names by @TAG; several images under one tag show one subject; may be "
    "given again"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is asked; 0 when it was written, 1 with the reason on stderr, 2 for wrong arguments."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    needed = ("preset",) if arguments.dry_run else ("model", "output")
    if missing := [f"--{name}" for name in needed if getattr(arguments, name) is None]:
        parser.error(f"{', '.join(missing)} must be given {'with' if arguments.dry_run else 'without'} --dry-run")
    if not arguments.dry_run and arguments.prompt is arguments.structured is arguments.shots is None:
        parser.error("one of --prompt, --structured and --shots must be given")

    def generate() -> int:
        if arguments.dry_run:
            return _plan(arguments)
        _generate(arguments)
        return 0

    return exit_status(generate, (ValueError,), stopped="stopped; nothing was written")


def _plan(arguments: argparse.Namespace) -> int:
    """Print what a finished clip would take; 1 where it fits on no number of devices."""
    if arguments.window is not None:
        raise RequestError("window", "a plan is of what is made at once: give its length as --seconds, and no --window")
    preset = load_preset(arguments.preset)
    usual = preset.section("generation")
    width, height = arguments.size or (usual["width"], usual["height"])
    length, fps = arguments.seconds or usual["seconds"], arguments.fps or usual["fps"]
    clip = clip_of(preset, length, height, width, fps, audio=arguments.sound)
    plans = plan_clip(preset, clip, cluster_of(arguments.gpu, MOST_RANKS), refine=arguments.refine)
    print(plan_table(plans))
    return 0 if any(plan.fits for plan in plans) else 1


def _generate(arguments: argparse.Namespace) -> None:
    request = request_of(arguments)
    request.check()
    load_finish(arguments.finish)
    files = {name: Path(name) for name in request.names()}
    words = [Path(path) for path in (arguments.structured, arguments.shots) if path is not None]
    outputs = [
        open_output(request, location, [*files.values(), *words])
        for location in several(arguments.output, arguments.clips)
    ]
    watch = Stopwatch()
    with MediaReader() as reader, watch.timing("read"):
        reader.check(request.files(files), still=request.still)
        enhance = asked_enhancer(arguments, arguments.device)
        request = with_regions(request, files, reader)
        prepared = prepare(request, files, read_spec(arguments.model), reader, enhance)
    windows = windows_of(request, prepared)
    if windows is not None and arguments.ranks > 1:
        raise RequestError("window", "a clip in windows is made on one device: leave --ranks or --window out")
    print_asked(request, prepared)
    asked = request.model_dump(mode="json", exclude_defaults=True)
    if arguments.ranks == 1:
        _render(arguments, arguments.device, prepared, outputs, asked, watch, windows=windows)
    else:
        told = (arguments, to_bytes(prepared), outputs, asked, watch)
        run_on_ranks(arguments.ranks, arguments.device, _render_on_rank, *told)


def _render(
    arguments: argparse.Namespace,
    device: str,
    prepared: Prepared,
    outputs: Sequence[Output],
    asked: Mapping[str, Any],
    watch: Stopwatch,
    ranks: UlyssesRanks | None = None,
    windows: Windows | None = None,
) -> None:
    """Load the model and make the clips; beside the first of several `ranks`, help that one to."""
    start = time.perf_counter()
    compile_elementwise(arguments.compiled)
    generator = Generator.from_pretrained(  # last: it may take minutes
        arguments.model,
        device,
        _DTYPES.get(arguments.dtype),
        arguments.offload,
        arguments.stream_layers,
        lora=arguments.lora,
        lora_scale=arguments.lora_scale,
    )
    provenance = {"folder": arguments.model, "load_seconds": round(time.perf_counter() - start, 3)}
    if arguments.lora is not None:
        provenance |= {"lora": arguments.lora, "lora_scale": arguments.lora_scale}
    if ranks is not None:
        share(generator, ranks)
    assert prepared.seed is not None  # `prepare` drew one where none was given
    for number, output in enumerate(outputs):
        one, timed = replace(prepared, seed=prepared.seed + number), Stopwatch(dict(watch.seconds))
        if ranks is not None and ranks.rank:
            follow(generator, one, ranks)
            continue
        with _Bars(arguments.quiet) as bars:
            watched = bars if ranks is None else Voted(ranks, bars)
            made = render(
                generator,
                one,
                output,
                asked=asked,
                on_step_end=watched,
                provenance=provenance,
                watch=timed,
                finish=load_finish(arguments.finish),
                windows=None if windows is None else replace(windows, first=one),
                codec=arguments.codec,
            )
        print_rendered(made)


def _render_on_rank(
    ranks: UlyssesRanks,
    device: str,
    arguments: argparse.Namespace,
    prepared: bytes,
    outputs: Sequence[Output],
    asked: Mapping[str, Any],
    watch: Stopwatch,
) -> None:
    """`_render` in a process of its own."""
    _render(arguments, device, from_bytes(Prepared, prepared), outputs, asked, watch, ranks)


def several(location: str, count: int) -> list[str]:
    """Where `count` clips go: clip-1.mp4, clip-2.mp4, ... for clip.mp4, which one alone keeps."""
    stem, dot, suffix = location.rpartition(".")
    return [location] if count == 1 else [f"{stem}-{number}{dot}{suffix}" for number in range(1, count + 1)]


def request_of(arguments: argparse.Namespace) -> GenerationRequest:
    """The command line as a request. Raises ConfigError or RequestError."""
    kind = output_kind(arguments.output)
    given = {name: getattr(arguments, name) for name in GenerationRequest.model_fields if hasattr(arguments, name)}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if arguments.prompt is None:
        values["prompt"] = _yaml(arguments.structured or arguments.shots)
    values |= {"still": kind == "still", "picture": kind != "sound"}
    if arguments.size is not None:
        values["width"], values["height"] = arguments.size
    values["keyframes"] = [{"seconds": seconds, "image": path} for seconds, path in arguments.keyframe]
    references: dict[str, list[str]] = {}
    for tag, path in arguments.reference:
        references.setdefault(tag, []).append(path)
    values |= {"references": references, "reference_guidance_scale": _scales(arguments.reference_guidance_scale)}
    return build(GenerationRequest, values, "the command line")


def print_asked(request: GenerationRequest, prepared: Prepared) -> None:
    """What is asked in the end, where it is not what was typed, and what the model was not trained on."""
    if prepared.prompt != render_prompt(request.prompt):
        print("asked   " + prepared.prompt.replace("\n", "\n        "))
    for line in told_regions(request.regions):
        print(f"removes {line}")
    for remark in prepared.remarks:
        print(f"note    {remark}")


def print_rendered(made: Rendered) -> None:
    """Where the clip is, what it is, and how long it took."""
    clip, seconds = made.facts["clip"], made.facts["seconds"]
    parts = []
    if "width" in clip:
        parts.append(f"{clip['width']}x{clip['height']}")
    if "seconds" in clip:
        parts.append(f"{clip['seconds']:g} s")
    if "width" in clip and "seconds" in clip:
        parts.append(f"{clip['frames']} frames at {clip['fps']:g} fps")
    if "channels" in clip:
        parts.append(f"{clip['channels']} channels at {clip['sample_rate']} Hz")
    print(f"clip    {made.output} ({', '.join(parts)})")
    print(f"record  {made.record}")
    print(f"seed    {made.facts['request']['seed']}; made in {seconds['generate']:.1f} s")


class _Bars:
    """A progress bar per stage, fed by the generator's callback; up to ten lines a stage where there is no terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stage = ""
        self._bar: Progress | None = None

    def __call__(self, progress: Step) -> None:
        if self._bar is None or progress.stage != self._stage:
            self.__exit__()
            self._stage = progress.stage
            self._bar = Progress(progress.stage, progress.step.count, "steps", quiet=self._quiet)
        self._bar.update(1)

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a model, as training exports it")
    parser.add_argument("--output", help=f"a path or s3://… that ends in {', '.join(SUFFIXES)}")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--prompt", help="what is seen and heard, in words; references are named by their @tags")
    words.add_argument("--structured", metavar="YAML", help="keys picture, text, sfx, dialogue, singing, bgm")
    words.add_argument("--shots", metavar="YAML", help="a list of {prompt: words or structured, seconds: length}")
    _add_request(parser)
    add_enhancer(parser)
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--clips", type=_count, default=1, help="how many, from --seed and those behind it: clip-1.mp4, … (default: 1)"
    )
    run.add_argument("--lora", metavar="FOLDER", help="an adapter, as jobs/finetune.py writes it")
    run.add_argument("--lora-scale", type=float, default=1.0, help="how much of it (default: 1)")
    add_finishing(run)
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    run.add_argument("--dtype", choices=_DTYPES, help="of the transformers (default: as saved)")
    run.add_argument("--compiled", action="store_true", help="elementwise work as one kernel each: takes triton or g++")
    run.add_argument("--offload", action="store_true", help="keep only the part that works on the device")
    run.add_argument("--stream-layers", action="store_true", help="keep layers on the host, and bring them one by one")
    run.add_argument(
        "--ranks", type=_count, default=1, help="processes that share the clip, on a GPU each (default: 1)"
    )
    run.add_argument("--quiet", action="store_true", help="no progress bars")
    plan = parser.add_argument_group("a plan instead of a clip")
    told = "say on how many GPUs, in what memory and time; --size and --fps are then those of the finished clip"
    plan.add_argument("--dry-run", action="store_true", help=told)
    plan.add_argument("--preset", help="of what size the model is: tiny, small, base, v4 or a YAML file")
    plan.add_argument("--gpu", default="h200", help="a file of cluster/calibration, or its name (default: h200)")
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    """Fields of a request: what has a description there is an option as it is, what is left is spelled here."""
    media = parser.add_argument_group("media to start from")
    clip = parser.add_argument_group("the clip; what is left out is the model's default")
    for name, info in GenerationRequest.model_fields.items():
        if info.description is None:
            continue
        options: dict[str, Any] = {"help": info.description}
        if info.annotation is bool:
            options |= {"action": "store_true"}
        else:
            options |= {"type": next((kind for kind in (int, float) if kind in get_args(info.annotation)), str)}
        holds_media = any(isinstance(part, Holds) for part in info.metadata)
        (media if holds_media else clip).add_argument(f"--{name.replace('_', '-')}", **options)
    for flag, kind, form, told in (
        ("--keyframe", _keyframe, "SECONDS=FILE", "an image to pass through; may be given again"),
        ("--reference", _reference, "@TAG=FILE", _REFERENCES),
    ):
        media.add_argument(flag, type=kind, action="append", default=[], metavar=form, help=told)
    media.add_argument("--video-use", choices=get_args(VideoUse), help="default: extend")
    clip.add_argument("--size", type=_size, metavar="WxH", help="default: the model's area in the shape of given media")
    clip.add_argument("--no-sound", dest="sound", action="store_false", help="leave the sound out")
    clip.add_argument(
        "--reference-guidance-scale",
        type=_scale,
        action="append",
        default=[],
        metavar="SCALE | @TAG=SCALE",
        help="of all references, or of one; the video of an edit is called source; may be given again",
    )


def _keyframe(text: str) -> tuple[float, str]:
    seconds, equals, path = text.partition("=")
    if not (re.fullmatch(r"\d+(\.\d*)?|\.\d+", seconds) and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not SECONDS=FILE, such as 1.5=middle.png")
    return float(seconds), path


def _reference(text: str) -> tuple[str, str]:
    tag, equals, path = text.partition("=")
    if not (tag.startswith("@") and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not @TAG=FILE, such as @image_1=dog.png")
    return tag, path


def _scale(text: str) -> tuple[str, float]:
    tag, equals, number = text.rpartition("=")
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", number) or bool(equals) != bool(tag):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a scale nor @TAG=SCALE, such as 2 or @image_1=2")
    return tag, float(number)


def _scales(given: Sequence[tuple[str, float]]) -> float | dict[str, float] | None:
    """One for all, or by tag."""
    by_tag = dict(given)
    if "" in by_tag and len(given) > 1:
        raise RequestError("reference_guidance_scale", "give one for all references, or one for each by its tag")
    return by_tag.get("", by_tag or None)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999, such as 8")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH, such as 96x64")
    return int(found[1]), int(found[2])


def _yaml(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise RequestError("prompt", f"{path} is not valid YAML: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
