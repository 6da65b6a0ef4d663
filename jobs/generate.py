"""A prompt, and media if wanted, to a clip with sound.

    python jobs/generate.py --model runs/train/sft/export --prompt "a red ball falls with a thud" --output clip.mp4
    python jobs/generate.py --model M --prompt "it rolls on" --image ball.png --seconds 2 --size 96x64 --output clip.mp4
    python jobs/generate.py --model M --prompt "grass" --video clip.mp4 --mask region.png --output inpainted.mp4
    python jobs/generate.py --model M --prompt "@ball falls in @room" --reference @ball=a.png --reference @ball=b.png \\
        --reference @room=room.mp4 --output clip.mp4
    python jobs/generate.py --model M --prompt "rain on a tin roof" --output rain.flac

The suffix of --output says what is made: .mp4 video (with sound unless --no-sound), .wav or .flac sound alone, .png or
.jpg one picture. A record of the request, the seed, the model and the times is written beside it as .json.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from model.generation.requests import VideoUse
from model.generation.run import Progress as Step
from model.generator import Generator
from pipelines.generation.media import MediaReader
from pipelines.generation.output import SUFFIXES, check_output, output_kind
from pipelines.generation.render import Rendered, render
from pipelines.generation.request import GenerationRequest, RequestError
from skyreels.command_line import exit_status
from skyreels.config import build
from skyreels.progress import Progress

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """Make one clip; 0 when it was written, 1 with the reason on stderr, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)

    def generate() -> int:
        print_rendered(_generate(arguments))
        return 0

    return exit_status(generate, (ValueError,), stopped="stopped; nothing was written")


def _generate(arguments: argparse.Namespace) -> Rendered:
    request = request_of(arguments)
    request.check()
    check_output(request, arguments.output)
    with MediaReader() as reader:
        reader.check(request)  # before the model is read: it may take minutes
        start = time.perf_counter()
        generator = Generator.from_pretrained(
            arguments.model,
            arguments.device,
            _DTYPES.get(arguments.dtype),
            arguments.offload,
            lora=arguments.lora,
            lora_scale=arguments.lora_scale,
        )
        provenance = {"folder": arguments.model, "load_seconds": round(time.perf_counter() - start, 3)}
        if arguments.lora is not None:
            provenance |= {"lora": arguments.lora, "lora_scale": arguments.lora_scale}
        with _Bars(arguments.quiet) as bars:
            return render(generator, request, arguments.output, reader, on_step_end=bars, provenance=provenance)


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
    """A progress bar per stage, fed by the generator's callback."""

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
    parser.add_argument("--model", required=True, help="folder of a model, as training exports it")
    parser.add_argument("--output", required=True, help=f"a path or s3://… that ends in {', '.join(SUFFIXES)}")
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--prompt", help="what is seen and heard, in words; references are named by their @tags")
    words.add_argument("--structured", metavar="YAML", help="keys picture, text, sfx, dialogue, singing, bgm")
    words.add_argument("--shots", metavar="YAML", help="a list of {prompt: words or structured, seconds: length}")
    parser.add_argument("--negative-prompt", help="what to stay away from")

    media = parser.add_argument_group("media to start from")
    media.add_argument("--image", help="the first frame")
    media.add_argument("--last-image", help="the last frame")
    media.add_argument(
        "--keyframe",
        type=_keyframe,
        action="append",
        default=[],
        metavar="SECONDS=FILE",
        help="an image to pass through; may be given again",
    )
    media.add_argument("--video", help="a clip to use as --video-use says, or with --mask to inpaint; also one image")
    media.add_argument("--video-use", choices=get_args(VideoUse), help="default: extend")
    media.add_argument(
        "--mask",
        help="what to generate: white is made anew, black is kept, as in diffusers; one picture for all frames, or a "
        "video, of the size of --video",
    )
    media.add_argument("--audio", help="sound, or a clip with sound, to make the picture for; it is kept as it is")
    media.add_argument(
        "--reference",
        type=_reference,
        action="append",
        default=[],
        metavar="@TAG=FILE",
        help="an image, clip or sound that the prompt names by @TAG; several images under one tag show one subject",
    )

    clip = parser.add_argument_group("the clip; what is left out is the model's default")
    clip.add_argument("--seconds", type=float, help="length of the whole result")
    clip.add_argument("--size", type=_size, metavar="WxH", help="default: the model's area in the shape of given media")
    clip.add_argument("--fps", type=float, help="frame rate before the refiner, and of media as they are read")
    clip.add_argument("--no-sound", dest="sound", action="store_false", help="leave the sound out")
    clip.add_argument("--refine", action="store_true", help="run the refiner: larger, at a higher frame rate")
    clip.add_argument("--seed", type=int, help="the same seed gives the same file on one device")
    clip.add_argument("--steps", type=int, help="sampling steps")
    for name in ("", "audio-", "cross-modal-"):
        clip.add_argument(f"--{name}guidance-scale", type=float, help="1 switches it off")
    clip.add_argument(
        "--reference-guidance-scale",
        type=_scale,
        action="append",
        default=[],
        metavar="SCALE | @TAG=SCALE",
        help="of all references, or of one; the video of an edit is called source; may be given again",
    )
    clip.add_argument("--guidance-rescale", type=float, help="0 to 1, against over-saturation")

    run = parser.add_argument_group("the run")
    run.add_argument("--lora", metavar="FOLDER", help="an adapter, as jobs/finetune.py writes it")
    run.add_argument("--lora-scale", type=float, default=1.0, help="how much of it (default: 1)")
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    run.add_argument("--dtype", choices=_DTYPES, help="of the transformers (default: as saved)")
    run.add_argument("--offload", action="store_true", help="keep only the part that works on the device")
    run.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


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
