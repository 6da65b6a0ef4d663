"""A small model on a plain world: from nothing through the whole curriculum, for hours on two CPU cores.

    make tiny                                 the plain world, curated; every stage; one clip with its sound
    make tiny OUTPUT=/data/tiny ARGS="--films 6000"
    make tiny ARGS="joint.steps=20000"        any setting of the recipes, after the ones below

The same command goes on where it was stopped. Nothing runs on Ray but curation: training is one rank in this process.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import curate, generate, train
from pipelines.synthesis.__main__ import main as render_world
from skyreels.command_line import parse

PROMPT = "A red circle bounces, flat blue background, metal impacts."

EVERY_STAGE = (
    "precision=bf16",  # autocast: matrix products in half the time where the CPU has the instructions
    "slots=1",
    "tokens_per_slot=2400",  # 15 clips with their sound, 80 pictures: a step costs the same whatever it learns
    "optimizer.learning_rate=1e-3",
    "schedule.kind=cosine",
    "schedule.warmup_steps=100",
    "schedule.final=0.05",
    "ema=0.999",
    "flow.shift=3",  # as it is sampled
    "captions.short=1",
    "captions.long=0",
    "captions.structured=0",
    "checkpoint.every_steps=100",
    "samples_every_steps=1000",
)
"""What a few thousand steps need, where the recipes are made for hundreds of thousands."""

_MORE_GIVEN = ("tasks.t2v=0.1", "tasks.t2a=0.1", "tasks.v2a=0.12", "tasks.a2v=0.06", "tasks.i2v=0.12")
"""Few steps leave too few of them for the shares of the recipes to be learned."""

BY_STAGE = {
    "codecs": ("precision=fp32", "steps=900", "tokens_per_slot=1280", "ema=0.99", "optimizer.learning_rate=2e-3"),
    # All at 64 px and of one cache. Pictures cost a tenth of clips: shapes, colours and backgrounds are learned there.
    "video-1": ("steps=3000", "sizes=[480]", "latents=clips"),
    "video-2": ("steps=2500", "sizes=[480]", "latents=clips"),
    "video-3": ("steps=1500", "sizes=[480]", "latents=clips", "optimizer.learning_rate=5e-4"),
    "video-4": ("steps=300", "optimizer.learning_rate=3e-4"),
    "video-5": ("steps=300", "optimizer.learning_rate=3e-4"),
    "video-6": ("steps=300", "optional=[image_ref, video_ref]", "optimizer.learning_rate=3e-4"),
    "audio": ("steps=2500",),
    "joint": ("steps=7000", "optimizer.learning_rate=7e-4", *_MORE_GIVEN),
    "sft-1": (
        "steps=2000",
        *_MORE_GIVEN[2:],
        "captions.short=0.5",
        "captions.structured=0.5",
        "optimizer.learning_rate=3e-4",
    ),
    "sft-2": (
        "steps=500",
        *_MORE_GIVEN[2:],
        "captions.short=0.5",
        "captions.structured=0.5",
        "optimizer.learning_rate=1e-4",
    ),
    "keyframes": ("steps=600", "captions.short=0.5", "captions.structured=0.5", "optimizer.learning_rate=3e-4"),
    # The refiner keeps what it is given, so it learns where little noise is left.
    "refiner": (
        "steps=600",
        "flow.shift=1",
        "captions.short=0.5",
        "captions.structured=0.5",
        "optimizer.learning_rate=3e-4",
    ),
}
_REFERENCES = "optional=[edit, image_ref, video_ref, audio_ref]"  # a clip of one second leaves no room for them
SETTINGS = (
    *EVERY_STAGE,
    *(f"{stage}.{setting}" for stage, settings in BY_STAGE.items() for setting in settings),
    *(f"{stage}.{_REFERENCES}" for stage in ("joint", "sft-1", "sft-2", "keyframes")),
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments, settings = parse(_parser(), argv)
    output: Path = arguments.output
    world, data, runs = output / "world", output / "data", output / "train"
    asked = ["--model", str(runs / "model"), "--prompt", PROMPT, "--seed", "0", "--output", str(output / "clip.mp4")]
    taught = ["--stage", arguments.stage, "--data", str(data), "--dataset", "plain", "--output", str(runs)]
    steps = {
        f"rendering {arguments.films} films into {world}": lambda: render_world(
            ["--output", str(world), "--plain", str(arguments.films)]
        ),
        f"curating them into {data}": lambda: curate.main(
            ["--input", str(world), "--output", str(data), "--recipe", "plain"]
        ),
        f"training {arguments.stage} into {runs}": lambda: train.main(
            [*taught, "--workers", "0", *SETTINGS, *settings]
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
    parser.add_argument("--films", type=int, default=4500, help="films in the rendered world")
    parser.add_argument("--stage", default="all", help="the stage to train up to (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
