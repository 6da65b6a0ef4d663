"""Train a stage of the curriculum, and first every stage that it stands on and that is not finished.

    python jobs/train.py --stage sft --data runs/demo/data --output runs/train
    python jobs/train.py --stage joint --dry-run                       what would run, and what it needs
    python jobs/train.py --stage video-3 --only steps=500 optimizer.learning_rate=2e-4
    ray job submit -- python jobs/train.py --stage all --preset v4 --data s3://bucket/data --output /shared/runs
    python jobs/train.py verify --output runs/train                    compare every byte, and mark what must be redone

Stages: codecs, video-1 to video-6, audio, joint, sft-1, sft-2, keyframes, refiner; `video`, `sft` and `all` stand for
several. Any setting of the recipes can be given as key=value. The same command goes on where it was stopped.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.generation.lists.prompt_file import Prompts
from pipelines.training.curriculum.recipe import GROUPS, STAGES
from pipelines.training.curriculum.request import Request, describe
from pipelines.training.stages import verify
from pipelines.training.stages.train import train
from skyreels.command_line import exit_status, parse
from skyreels.storage import require_writable
from skyreels.training.errors import TrainingError

_EXPECTED = (TrainingError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every stage is finished, 1 with the reason on stderr, 2 for wrong arguments, 3 when asked to stop."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["verify"]:
        checked = _verify_parser().parse_args(words[1:])
        return exit_status(lambda: _verify(checked.output, mending=not checked.dry_run), _EXPECTED)
    arguments, settings = parse(_parser(), words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prompts = None if arguments.prompts is None else Prompts(arguments.prompts)
    request = Request(
        stage=arguments.stage,
        preset=arguments.preset,
        data=arguments.data,
        output=arguments.output.resolve(),
        datasets=arguments.dataset,
        pairs=arguments.pairs,
        workers=arguments.workers,
        gpu=arguments.gpu,
        settings=settings,
        only=arguments.only,
        fresh=arguments.resume == "never",
        tracked=not arguments.no_tracking,
        quiet=arguments.quiet,
        prompts=prompts,
    )

    def run() -> int:
        if arguments.dry_run:
            print(describe(request))
            return 0
        if prompts is not None:
            prompts.check()
        require_writable(str(request.output))
        return 0 if train(request) else 3

    return exit_status(run, _EXPECTED, stopped="stopped; the same command goes on from the last checkpoint")


def _verify(output: Path, *, mending: bool) -> int:
    """0 where everything is as it was written, or will be made again by the next run; 1 where a person must act."""
    found = verify.find_damage(output)
    for damage in found:
        print(f"damaged   {damage.problem}\n          {damage.remedy}")
        if damage.mend is not None and mending:
            damage.mend()
    if not found:
        print("everything is as it was written")
    return 1 if any(damage.mend is None or not mending for damage in found) else 0


def _names(word: str) -> tuple[str, ...]:
    """The names in `a,b`."""
    return tuple(filter(None, word.split(",")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = f"one of {', '.join(STAGES)}, or {', '.join(GROUPS)}"
    parser.add_argument("--stage", required=True, help=stages)
    parser.add_argument("--preset", default="tiny", help="tiny, small, base, v4 or a YAML file (default: tiny)")
    parser.add_argument("--data", default="runs/demo/data", help="what jobs/curate.py wrote: a folder or s3://…")
    parser.add_argument(
        "--dataset",
        type=_names,
        default=(),
        metavar="NAME[,NAME...]",
        help="which of its datasets; several are read together (default: those a recipe names, else `default`)",
    )
    parser.add_argument("--pairs", help="films before and after an edit (python -m pipelines.synthesis --pairs N)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/train"),
        help="folder for everything made, seen by all nodes (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, help="ranks (default: the preset's; with --gpu one GPU each); 0: one, in this process"
    )
    parser.add_argument(
        "--gpu", help="train on GPUs of this kind (h100, h200, a100): for the plan and the memory check"
    )
    parser.add_argument("--only", action="store_true", help="this stage alone; what it stands on must be finished")
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="never: begin the stage anew")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    told = "sample these too while training: a request a line, as jobs/generate.py takes it (prompt, image, seed, …)"
    parser.add_argument("--prompts", metavar="JSONL", help=told)
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jobs/train.py verify", description="Compare every byte below an output.")
    parser.add_argument("--output", type=Path, default=Path("runs/train"), help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print what is damaged, and mark nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
