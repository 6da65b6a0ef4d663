"""A small model on a plain world, from nothing through the whole curriculum: minutes on a GPU, hours on two cores.

    make tiny                                 the plain world, curated; every stage; one clip with its sound
    make tiny OUTPUT=/data/tiny ARGS="--films 6000"
    make tiny ARGS="joint.steps=20000"        any setting of the recipes, after the ones below

The same command goes on where it was stopped. Nothing runs on Ray but curation: training is one rank in this process.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs import curate, generate, train
from pipelines.synthesis.__main__ import main as render_world
from pipelines.synthesis.plain import EDITS
from skyreels.command_line import parse

PROMPT = "A red circle bounces, flat blue background, metal impacts."

EVERY_STAGE = (
    "precision=bf16",  # autocast: matrix products in half the time where the CPU has the instructions
    "slots=1",
    "optimizer.learning_rate=1e-3",
    "schedule.kind=cosine",
    "schedule.warmup_steps=100",
    "schedule.final=0.05",
    "ema=0.999",
    "flow.shift=3",  # as it is sampled
    "captions.short=1",
    "captions.long=0",
    "captions.structured=0",
    "samples_every_steps=1000",
)
"""What a few thousand steps need, where the recipes are made for hundreds of thousands."""

ON_TWO_CORES = (
    "tokens_per_slot=2400",  # 15 clips with their sound, 80 pictures: a step costs the same whatever it learns
    "checkpoint.every_steps=100",
)
ON_A_GPU = (
    "tokens_per_slot=20000",  # 130 clips with their sound: launches cost as much as these
    "checkpoint.every_steps=2000",
    "captured=true",
    f"readers={max(1, min(12, (os.cpu_count() or 2) - 1))}",
)

STEPS = {
    #          two cores, a GPU
    "codecs": (900, 900),
    "video-1": (3000, 750),
    "video-2": (2500, 950),
    "video-3": (1500, 950),
    "video-4": (100, 50),
    "video-5": (100, 50),
    "video-6": (500, 300),
    "audio": (2500, 950),
    "joint": (7000, 4500),
    "sft-1": (2500, 1900),
    "sft-2": (1000, 600),
    "keyframes": (600, 300),
    "refiner": (600, 4000),
}

_ONE_CACHE = ("sizes=[480]", "latents=plain")  # 64 px, as everything that follows
_MORE_GIVEN = (
    "tasks.t2v=0.1",
    "tasks.t2a=0.1",
    "tasks.v2a=0.12",
    "tasks.a2v=0.06",
    "tasks.i2v=0.1",
    "tasks.edit=0.08",
    "tasks.t2i=0.1",
    "tasks.inpaint=0.08",
    "tasks.image_ref=0.12",  # a shape that is shown takes the longest to be made
)
"""Few steps leave too few of them for the shares of the recipes to be learned."""
_BOTH_FORMS = ("captions.short=0.5", "captions.structured=0.5")

BY_STAGE = {
    "codecs": ("precision=fp32", "tokens_per_slot=1280", "ema=0.99", "optimizer.learning_rate=2e-3", "captured=false"),
    # Pictures cost a tenth of clips: shapes, colours and backgrounds are learned there.
    "video-1": _ONE_CACHE,
    "video-2": _ONE_CACHE,
    "video-3": (*_ONE_CACHE, "optimizer.learning_rate=5e-4"),
    "video-4": (*_ONE_CACHE, "optimizer.learning_rate=3e-4"),
    "video-5": (*_ONE_CACHE, "optimizer.learning_rate=3e-4"),
    "video-6": (*_ONE_CACHE, *_BOTH_FORMS, "optimizer.learning_rate=5e-4"),
    "audio": ("latents=plain",),
    "joint": (*_ONE_CACHE, *_MORE_GIVEN, "optimizer.learning_rate=8e-4"),
    "sft-1": (*_ONE_CACHE, *_MORE_GIVEN[2:], *_BOTH_FORMS, "optimizer.learning_rate=5e-4"),
    "sft-2": (*_ONE_CACHE, *_MORE_GIVEN[2:], *_BOTH_FORMS, "optimizer.learning_rate=1e-4"),
    "keyframes": (*_BOTH_FORMS, "optimizer.learning_rate=3e-4"),
    # As the shipped refiner was trained (docs/decisions/0099-a-shallow-refiner.md).
    "refiner": (*_BOTH_FORMS, "flow.shift=3", "flow.distribution=uniform", "optimizer.learning_rate=1e-3"),
}
"""Over `EVERY_STAGE`. Where there are no pairs, or clips with room for references, other tasks have the steps."""


def settings_for(gpu: bool) -> tuple[str, ...]:
    """Of the recipes, on two CPU cores or on one GPU."""
    steps = (f"{name}.steps={counts[gpu]}" for name, counts in STEPS.items())
    stages = (f"{name}.{setting}" for name, settings in BY_STAGE.items() for setting in settings)
    return (*EVERY_STAGE, *(ON_A_GPU if gpu else ON_TWO_CORES), *steps, *stages)


def main(argv: Sequence[str] | None = None) -> int:
    arguments, settings = parse(_parser(), argv)
    output: Path = arguments.output
    world, pairs, data, runs = (output / name for name in ("world", "pairs", "data", "train"))
    asked = ["--model", str(runs / "model"), "--prompt", PROMPT, "--seed", "0", "--output", str(output / "clip.mp4")]
    taught = ["--stage", arguments.stage, "--data", str(data), "--dataset", "plain", "--output", str(runs)]
    taught += ["--pairs", str(pairs), "--workers", "0"]
    steps = {
        f"rendering {arguments.films} films into {world}": lambda: render_world(
            ["--output", str(world), "--plain", str(arguments.films)]
        ),
        f"rendering {arguments.pairs} edit pairs into {pairs}": lambda: render_world(
            ["--output", str(pairs), "--plain-pairs", str(arguments.pairs)]
        ),
        f"curating the films into {data}": lambda: curate.main(
            ["--input", str(world), "--output", str(data), "--recipe", "plain"]
        ),
        f"training {arguments.stage} into {runs}": lambda: train.main(
            [*taught, *settings_for(torch.cuda.is_available()), *settings]
        ),
        "making a clip with sound": lambda: generate.main(asked),
    }
    started = time.monotonic()
    for number, (title, step) in enumerate(steps.items(), 1):
        print(f"\n{number}/{len(steps)} {title}", flush=True)
        status = step()
        if status:
            return status
    print(f"\nmodel     {runs / 'model'}\nclip      {output / 'clip.mp4'}: {PROMPT}")
    print(f"done in {(time.monotonic() - started) / 60:.0f} minutes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make tiny", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/tiny"), help="folder for everything")
    parser.add_argument("--films", type=int, default=5200, help="films in the rendered world")
    parser.add_argument("--pairs", type=int, default=1500, help="edits of other films: " + ", ".join(EDITS))
    parser.add_argument("--stage", default="all", help="the stage to train up to (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
