"""A low-rank adapter of a trained model, on your own clips.

    python jobs/curate.py --input clips/ --output mydata
    python jobs/finetune.py --model runs/train/model --dataset mydata/datasets/default --output runs/mine
    python jobs/generate.py --model runs/train/model --lora runs/mine/adapter --prompt "…" --output clip.mp4

The model stays as it is: what is trained, checkpointed and written is the adapter. Any setting of the recipe can be
given as key=value, such as `steps=500` or `optimizer.learning_rate=2e-4`. The same command goes on where it stopped.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.generation.lists.prompt_file import Prompts
from pipelines.training.learners.lora import LoraSettings
from pipelines.training.stages.finetune import Request, finetune
from skyreels.command_line import exit_status, parse
from skyreels.config import build
from skyreels.storage import require_writable
from skyreels.training.errors import TrainingError

_EXPECTED = (ValueError, TrainingError)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the adapter is written, 1 with the reason on stderr, 2 for wrong arguments, 3 when asked to stop."""
    arguments, settings = parse(_parser(), argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_status(
        lambda: _finetune(arguments, settings),
        _EXPECTED,
        stopped="stopped; the same command goes on from the last checkpoint",
    )


def _finetune(arguments: argparse.Namespace, settings: Sequence[str]) -> int:
    given = {"steps": arguments.steps, "workers": arguments.workers}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    alpha = arguments.rank if arguments.alpha is None else arguments.alpha
    prompts = None if arguments.prompts is None else Prompts(arguments.prompts)
    request = Request(
        model=arguments.model.resolve(),
        dataset=arguments.dataset,
        output=arguments.output.resolve(),
        preset=arguments.preset,
        recipe=arguments.recipe,
        lora=build(LoraSettings, {"rank": arguments.rank, "alpha": alpha}, "the command line"),
        gpu=arguments.gpu,
        settings=[*named, *settings],
        tracked=not arguments.no_tracking,
        quiet=arguments.quiet,
        prompts=prompts,
    )
    if prompts is not None:
        prompts.check()
    require_writable(str(request.output))
    made = finetune(request)
    if made.adapter is None:
        print(f"stopped at step {made.step}; the same command goes on from {made.checkpoint}")
        return 3
    print(f"adapter   {made.adapter}\nlatents   {made.latents}\nrun       {request.output / 'run'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/finetune.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a model, as training exports it")
    parser.add_argument("--dataset", required=True, help="a dataset that jobs/curate.py wrote, or s3://…")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter, seen by all nodes")
    parser.add_argument("--preset", default="tiny", help="the one the model was trained with (default: %(default)s)")
    parser.add_argument("--recipe", default="lora", help="a YAML file instead of the one that is shipped")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter (default: %(default)s)")
    parser.add_argument("--alpha", type=float, help="the update counts alpha / rank times (default: the rank)")
    parser.add_argument("--steps", type=int, help="default: as many as the recipe's epochs make")
    parser.add_argument("--workers", type=int, help="ranks (default: the preset's); 0: one, in this process")
    parser.add_argument(
        "--gpu", help="train on GPUs of this kind (h100, h200, a100): for the plan and the memory check"
    )
    told = "sample these too while training: a request a line, as jobs/generate.py takes it (prompt, image, seed, …)"
    parser.add_argument("--prompts", metavar="JSONL", help=told)
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())
