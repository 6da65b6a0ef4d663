"""The whole path on embedded defaults: render a world, curate it, train on it, make a clip, say where everything is.

make demo                              a world of 36 files in runs/demo, every stage up to joint, one clip with sound
make demo OUTPUT=/data/demo ARGS="--films 72"
make demo ARGS="--only data"           no training
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs import curate, generate, train
from pipelines.synthesis.__main__ import main as render_world

PROMPT = "A red circle bounces off the walls; each bounce makes a metal sound."
SETTINGS = ("steps=10", "codecs.steps=120", "audio.steps=50", "joint.steps=60")
"""Shorter than the preset's, so that all of it ends in minutes; `make train` has the preset's."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    output: Path = arguments.output
    started = time.monotonic()
    steps = _data_steps(output, arguments.films, arguments.seed)
    if arguments.only == "all":
        steps |= _model_steps(output, arguments.stage)
    for number, (title, step) in enumerate(steps.items(), 1):
        print(f"\n{number}/{len(steps)} {title}", flush=True)
        status = step()
        if status:
            print(f"demo failed in {time.monotonic() - started:.0f} s")
            return status
    _print_places(output, arguments)
    print(f"demo done in {time.monotonic() - started:.0f} s")
    return 0


def _data_steps(output: Path, films: int, seed: int) -> dict[str, Callable[[], int | None]]:
    world, pairs, data = str(output / "world"), str(output / "pairs"), str(output / "data")
    common = ["--films", str(films), "--seed", str(seed)]
    return {
        f"rendering a world of {films} files into {world}": lambda: render_world(["--output", world, *common]),
        f"rendering films before and after an edit into {pairs}": lambda: render_world(
            ["--output", pairs, "--pairs", str(max(1, films // 4)), "--seed", str(seed)]
        ),
        f"curating the world into {data}": lambda: curate.main(["--input", world, "--output", data]),
    }


def _model_steps(output: Path, stage: str) -> dict[str, Callable[[], int | None]]:
    runs = output / "train"
    trained = ["--stage", stage, "--preset", "tiny", "--data", str(output / "data"), "--pairs", str(output / "pairs")]
    asked = ["--model", str(runs / "model"), "--prompt", PROMPT, "--seed", "0", "--output", str(output / "clip.mp4")]
    return {
        f"training every stage up to {stage}": lambda: train.main([*trained, "--output", str(runs), *SETTINGS]),
        "making a clip with sound": lambda: generate.main(asked),
    }


def _print_places(output: Path, arguments: argparse.Namespace) -> None:
    dataset = output / "data" / "datasets" / "default"
    places = {"shards": dataset / "shards", "report": dataset / "report.html"}
    if arguments.only == "all":
        places |= {"runs": output / "train", "model": output / "train" / "model", "clip": output / "clip.mp4"}
    print()
    for name, place in places.items():
        print(f"{name:<9} {place}")
    if arguments.only == "all":
        print("curves    .venv/bin/mlflow ui   (http://127.0.0.1:5000)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for everything")
    parser.add_argument("--films", type=int, default=36, help="files in the rendered world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", default="joint", help="the stage to train up to: joint, sft, all …")
    parser.add_argument("--only", choices=("all", "data"), default="all", help="data: stop before training")
    return parser


if __name__ == "__main__":
    sys.exit(main())
