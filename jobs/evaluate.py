"""Judge models on suites of prompts with known truth, with 95 % intervals, controls and targets.

    python jobs/evaluate.py --model model/shipped/tiny --suite all --output runs/evaluation
    python jobs/evaluate.py --model runs/a/model --model runs/b/model --suite t2v,t2av --n 40 --output runs/compared
    python jobs/evaluate.py --model model/shipped/tiny --suite t2v --ablate all --output runs/parts
    python jobs/evaluate.py --model truth --suite all --n 20 --output runs/judge        # how well the judge sees
    python jobs/evaluate.py --files clip.mp4 other.mp4                  # sync, sharpness, flicker, loudness, clipping

Written: metrics.json (every score of every clip), report.html (one file; clips play side by side), media/.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import torch

from pipelines.evaluation.ablations import ABLATIONS
from pipelines.evaluation.evaluate import (
    TRUTH,
    Contender,
    EvaluationError,
    Run,
    ablations_named,
    contender,
    evaluate,
    evaluate_beside,
    flat_metrics,
    require_model,
    runs_of,
    suites_named,
    write_report,
)
from pipelines.evaluation.files import measure_file
from pipelines.evaluation.report.table import text_table
from pipelines.evaluation.run import SuiteResult
from pipelines.evaluation.suites import MISSING, SUITES
from skyreels.command_line import exit_status
from skyreels.media.errors import MediaError
from skyreels.progress import Progress
from skyreels.tracking import track


def main(argv: Sequence[str] | None = None) -> int:
    """0 when everything was judged and the judge met its controls, 1 otherwise, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    run = _measure if arguments.files else _evaluate
    return exit_status(lambda: run(arguments), (ValueError, MediaError), stopped="stopped; run the same command again")


def _measure(arguments: argparse.Namespace) -> int:
    for path in arguments.files:
        told = measure_file(path).items()
        print(f"{path}: " + ", ".join(f"{name} {'-' if value is None else f'{value:.3g}'}" for name, value in told))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    runs, output = runs_of(suites_named(arguments.suite), ablations_named(arguments.ablate)), arguments.output
    if output is None:
        raise EvaluationError("--output is missing: name a folder for metrics.json and report.html")
    if arguments.n < 2:
        raise EvaluationError(f"--n {arguments.n}: judge at least 2 films of a suite, 100 for figures to report")
    if arguments.draws < 1:
        raise EvaluationError(f"--draws {arguments.draws}: every film is asked at least once, 3 times for a headline")
    names = _names(arguments.model)
    output.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    results: dict[str, list[SuiteResult]] = {}
    for name, folder in names.items():
        make = _maker(name, folder, arguments)
        asked = {"suite": arguments.suite, "n": arguments.n, "noise_seed": arguments.noise_seed, "model": folder}
        asked |= {"draws": arguments.draws} if arguments.draws > 1 else {}
        asked |= {"ablate": arguments.ablate} if arguments.ablate else {}
        bar = Progress(name, arguments.n * arguments.draws * len(runs), "clips", quiet=arguments.quiet)
        with track("evaluation", run_name=name, params=asked, enabled=arguments.tracking) as run:
            results[name] = _results(make, runs, output / "media" / name, arguments, bar)
            bar.close()
            rows = write_report(output, results, asked)
            run.metrics(flat_metrics(results[name]))
            for made in ("metrics.json", "report.html"):
                run.artifact(output / made)
    print(text_table(rows))
    print(f"\nreport   {output / 'report.html'}\nfigures  {output / 'metrics.json'}")
    print(f"not asked yet: {'; '.join(MISSING)}")
    return _verdict(results)


def _verdict(results: dict[str, list[SuiteResult]]) -> int:
    distrusted = [(name, result.suite) for name, told in results.items() for result in told if not result.trusted]
    for name, suite in distrusted:
        print(f"error: the judge failed a control of {suite} ({name}): see `controls` there", file=sys.stderr)
    for name, told in results.items():
        failed = sum(result.failed for result in told)
        if failed:
            print(f"{failed} clips of {name} were not made; report.html says why", file=sys.stderr)
    return 1 if distrusted else 0


def _names(folders: Sequence[str]) -> dict[str, str]:
    """A short name for each model: the last parts of its path that tell it from the others."""
    parts = {folder: Path(folder).resolve().parts if folder != TRUTH else (TRUTH,) for folder in folders}
    for depth in range(1, 20):
        names = {"-".join(path[-depth:]).strip("/"): folder for folder, path in parts.items()}
        if len(names) == len(parts):
            return names
    raise EvaluationError("the models cannot be told apart: name each folder once")


def _maker(name: str, folder: str, arguments: argparse.Namespace) -> Callable[[], Contender]:
    """How a process makes the model; what is no model is told now."""
    require_model(folder)
    settings = {} if arguments.steps is None else {"num_inference_steps": arguments.steps}
    return partial(contender, name, folder, arguments.device, settings)


def _results(
    make: Callable[[], Contender], runs: Sequence[Run], media: Path, arguments: argparse.Namespace, bar: Progress
) -> list[SuiteResult]:
    workers = arguments.workers or (1 if arguments.device != "cpu" else min(os.cpu_count() or 1, len(runs)))
    noise = {"noise_seed": arguments.noise_seed, "draws": arguments.draws}
    if workers == 1:
        return evaluate(make(), runs, arguments.n, media, **noise, progress=lambda: bar.update(1))
    return evaluate_beside(make, runs, arguments.n, media, workers, **noise, progress=bar.update)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    told = f"folder of a model, as training exports it, or `{TRUTH}`; may be given again"
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--model", action="append", metavar="DIR", help=told)
    asked.add_argument("--files", nargs="+", metavar="FILE", help="measure these clips of yours; nothing is asked")
    parser.add_argument("--suite", default="all", help=f"all, or some of {','.join(SUITES)}")
    parser.add_argument(
        "--ablate", default="", metavar="PARTS", help=f"switch parts off in turn: all, or some of {','.join(ABLATIONS)}"
    )
    parser.add_argument("--n", type=int, default=100, help="films per suite (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to, with --model")
    parser.add_argument("--noise-seed", type=int, default=0, help="another draw of the models' noise (default: 0)")
    parser.add_argument(
        "--draws", type=int, default=1, help="of noise, each judged on every film: --noise-seed and those after it"
    )
    parser.add_argument("--steps", type=int, help="of sampling, in the place of the model's own number")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=int, help="suites judged beside each other (default: a core each; 1 on a GPU)"
    )
    parser.add_argument("--no-tracking", dest="tracking", action="store_false", help="no MLflow run")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())
