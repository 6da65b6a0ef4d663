"""What billions of samples will cost: ratios and growth over the number of rows, in sections, as a table and as JSON.

    python -m benchmarks.scale                              # every section
    python -m benchmarks.scale index --json scale.json
    python -m benchmarks.scale rows --most 10000000         # an hour of one core, and 20 GB of disk meanwhile

A section is a module with `measure(folder)`, which yields figures and leaves what it needs in a scratch folder.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.scale_figures import Figure, write_json

SECTIONS = {
    "index": "benchmarks.scale_index",
    "listing": "benchmarks.scale_listing",
    "rows": "benchmarks.scale_rows",
    "nodes": "benchmarks.scale_nodes",
    "pictures": "benchmarks.scale_pictures",
}
"""Modules by the name of their section."""
GROWING = ("listing", "rows")
"""Sections that compare their fewest with `--most`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    longest = f"rows, or names, of the largest run of {' and '.join(GROWING)} (default %(default)s)"
    parser.add_argument("--most", type=int, default=10**6, help=longest)
    options = parser.parse_args()
    unknown = sorted(set(options.sections) - SECTIONS.keys())
    if unknown:
        parser.error(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    found: dict[str, list[Figure]] = {}
    for name in options.sections or SECTIONS:
        print(name, flush=True)
        found[name] = []
        asked = {"most": options.most} if name in GROWING else {}
        with tempfile.TemporaryDirectory(prefix=f"scale-{name}-") as folder:
            for figure in importlib.import_module(SECTIONS[name]).measure(Path(folder), **asked):
                print(figure, flush=True)
                found[name].append(figure)
    if options.json:
        write_json(found, options.json)


if __name__ == "__main__":
    main()
