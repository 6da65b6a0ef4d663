"""The main job on embedded defaults: render a small world, curate it, say where everything is.

make demo                              a world of 36 files in runs/demo
make demo OUTPUT=/data/demo ARGS="--films 72"
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import curate
from pipelines.synthesis.__main__ import main as render_world


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for the world and the data")
    parser.add_argument("--films", type=int, default=36, help="files in the rendered world")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    world = arguments.output / "world"
    print(f"1/2 rendering a world of {arguments.films} files into {world}")
    render_world(["--output", str(world), "--films", str(arguments.films), "--seed", str(arguments.seed)])
    print(f"2/2 curating it into {arguments.output / 'data'}")
    status = curate.main(["--input", str(world), "--output", str(arguments.output / "data")])
    print(f"demo {'done' if status == 0 else 'failed'} in {time.monotonic() - started:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
