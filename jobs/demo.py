"""The whole path on embedded defaults, from the small model that comes with the project.

make demo                              curate a world of 36 files, adapt the model to 24 clips, make a clip, judge it
make demo OUTPUT=/data/demo ARGS="--films 72"
make demo ARGS="--only data"           the curated world alone
make demo ARGS="--steps 300"           adapt for longer

`make tiny` trains such a model from nothing, `make train` on the curated world.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs import curate, finetune, generate
from model.folder import SHIPPED
from pipelines.evaluation.clips import read_clip
from pipelines.evaluation.judge.asked import Asked, judged
from pipelines.synthesis.__main__ import main as render_world

ASKED = Asked(shape="circle", colour="red", background="blue", motion="bounces", sound="metal")
PROMPT = "A red circle bounces, flat blue background, metal impacts."
OWN_FILMS = 24
OWN_SEED = 7  # films that the model has not seen

Steps = dict[str, Callable[[], int | None]]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    output: Path = arguments.output
    started = time.monotonic()
    steps = _data_steps(output, arguments.films, arguments.seed)
    if arguments.only == "all":
        steps |= _model_steps(output, arguments.steps)
    for number, (title, step) in enumerate(steps.items(), 1):
        print(f"\n{number}/{len(steps)} {title}", flush=True)
        status = step()
        if status:
            print(f"demo failed in {time.monotonic() - started:.0f} s")
            return status
    _print_places(output, arguments)
    print(f"demo done in {time.monotonic() - started:.0f} s")
    return 0


def _data_steps(output: Path, films: int, seed: int) -> Steps:
    world, data = str(output / "world"), str(output / "data")
    return {
        f"rendering a world of {films} files into {world}": lambda: render_world(
            ["--output", world, "--films", str(films), "--seed", str(seed)]
        ),
        f"curating the world into {data}": lambda: curate.main(["--input", world, "--output", data]),
    }


def _model_steps(output: Path, steps: int) -> Steps:
    films, data, adapted = str(output / "films"), str(output / "data"), output / "adapted"
    dataset = str(output / "data" / "datasets" / "plain")
    clip = output / "clip.mp4"
    taught = ["--model", str(SHIPPED), "--dataset", dataset, "--output", str(adapted), "--workers", "0"]
    asked = ["--model", str(SHIPPED), "--lora", str(adapted / "adapter"), "--prompt", PROMPT, "--seed", "0"]
    return {
        f"rendering {OWN_FILMS} plain films into {films}": lambda: render_world(
            ["--output", films, "--plain", str(OWN_FILMS), "--seed", str(OWN_SEED)]
        ),
        "curating them beside the world": lambda: curate.main(
            ["--input", films, "--output", data, "--recipe", "plain"]
        ),
        f"adapting the model to them in {steps} steps": lambda: finetune.main([*taught, "--steps", str(steps)]),
        "making a clip with sound": lambda: generate.main([*asked, "--output", str(clip)]),
        f"judging it: {PROMPT}": lambda: _judge(clip),
    }


def _judge(clip: Path) -> int:
    """1 where the subject, its colour or its sound are not those that were asked for."""
    found = judged(read_clip(clip), ASKED)
    for name, verdict in found.items():
        print(f"{name:<12} {'as asked' if verdict.right else f'{verdict.seen}, not {verdict.asked}'}")
    return 0 if all(found[name].right for name in ("shape", "colour", "sound")) else 1


def _print_places(output: Path, arguments: argparse.Namespace) -> None:
    dataset = output / "data" / "datasets" / "default"
    places = {"shards": dataset / "shards", "report": dataset / "report.html"}
    if arguments.only == "all":
        places |= {"model": SHIPPED, "adapter": output / "adapted" / "adapter", "clip": output / "clip.mp4"}
    print()
    for name, place in places.items():
        print(f"{name:<9} {place}")
    if arguments.only == "all":
        print("curves    .venv/bin/mlflow ui   (http://127.0.0.1:5000)\nserve     make serve")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for everything")
    parser.add_argument("--films", type=int, default=36, help="files in the rendered world")
    parser.add_argument("--seed", type=int, default=0, help="of the rendered world")
    parser.add_argument("--steps", type=int, default=60, help="in which the model adapts (default: about a minute)")
    parser.add_argument("--only", choices=("all", "data"), default="all", help="data: stop after the curated world")
    return parser


if __name__ == "__main__":
    sys.exit(main())
