"""Training's index over cached latents: open and first batch, by the number of its rows."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.scale_figures import Figure


def measure(folder: Path) -> Iterator[Figure]:
    """Ratios of 10^8 rows to 10^6."""
    yield from ()
