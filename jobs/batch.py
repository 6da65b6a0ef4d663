"""A list of requests to a folder of clips, one JSON object a line with the fields of jobs/generate.py.

    python jobs/batch.py --model M --requests list.jsonl --output runs/clips --here        in this process
    python jobs/batch.py --model M --requests list.jsonl --output runs/clips --gpus 1 --workers 8      on Ray Data
    ray job submit -- python jobs/batch.py --model /m --requests /l.jsonl --output s3://b/clips --gpus 1 --workers 8

Clips and their records are in OUTPUT/clips, under the name that a line gives. The same command goes on from what is
committed, and makes anew what has changed. What could not be made is in OUTPUT/failures.jsonl.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial

import torch

from pipelines.generation.enhance import add_enhancer, asked_config
from pipelines.generation.finishing import add_finishing, load_finish
from pipelines.generation.lists.batch import FAILURES, ClipMaker, Making, failed, read_list, remaining
from skyreels import cluster
from skyreels.command_line import exit_status
from skyreels.parts import Part, Resources, committed, run_in_process, run_parts
from skyreels.progress import Progress
from skyreels.storage import Storage, normalise, require_writable

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every line was tried, 1 with the reason on stderr, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    stopped = "stopped; the same command goes on from what is committed"
    return exit_status(lambda: _run(arguments), (ValueError,), stopped=stopped)


def _run(arguments: argparse.Namespace) -> int:
    require_writable(arguments.output)
    load_finish(arguments.finish)
    making = _making(arguments)
    parts, failures = read_list(arguments.requests)
    todo = remaining(making, parts, again=arguments.again)
    print(
        f"requests  {len(parts)} to make, {len(parts) - len(todo)} of them done before; {len(failures)} cannot be read"
    )
    if todo:
        _make(arguments, making, todo)
    unmade = list(failed(making, parts))
    failures += unmade
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
    Storage(arguments.output).write(FAILURES, lines.encode())
    for why, count in Counter(failure.why for failure in failures).most_common(5):
        print(f"failed    {count}: {why}")
    print(f"clips     {len(parts) - len(unmade)} in {arguments.output}/clips")
    return 0


def _make(arguments: argparse.Namespace, making: Making, todo: Sequence[Part]) -> None:
    """Every part, here or on the cluster. Raises Incomplete where some could not be written."""
    make = partial(ClipMaker, making)
    with ExitStack() as stack:
        if arguments.here:
            outcomes = run_in_process(todo, make)
        else:
            stack.enter_context(cluster.connect())
            outcomes = run_parts(todo, make, Resources(arguments.cpus, arguments.gpus, arguments.workers))
        bar = stack.enter_context(closing(Progress("requests", len(todo), "requests", quiet=arguments.quiet)))
        for _ in committed(outcomes, arguments.output):
            bar.update(1)


def _making(arguments: argparse.Namespace) -> Making:
    return Making(
        normalise(arguments.model),  # workers run in folders of their own
        normalise(arguments.output),
        arguments.device,
        _DTYPES.get(arguments.dtype),
        asked_config(arguments),
        arguments.finish,
        arguments.codec,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/batch.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a model, which every worker can read")
    parser.add_argument("--requests", required=True, metavar="JSONL", help="the list; media lie relative to it")
    parser.add_argument("--output", required=True, help="a folder or s3://…")
    parser.add_argument("--again", action="store_true", help="try what failed before once more")
    parser.add_argument("--device", default="", help="default: cuda where a worker has one, else cpu")
    parser.add_argument("--dtype", choices=_DTYPES, help="of the transformers (default: as saved)")
    add_finishing(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    where = parser.add_argument_group("where")
    where.add_argument("--here", action="store_true", help="in this process, without Ray")
    where.add_argument("--workers", type=int, default=1, help="each loads the model (default: %(default)s)")
    where.add_argument("--cpus", type=float, default=1.0, help="of each worker (default: %(default)s)")
    where.add_argument("--gpus", type=float, default=0.0, help="of each worker (default: %(default)s)")
    add_enhancer(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
