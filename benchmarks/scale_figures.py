"""What a section of `benchmarks.scale` finds, as a line of a table and of JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One row: a ratio or a growth, what it should be, and in words what it was made from."""

    name: str
    value: float
    most: float | None = None
    """The target: no more than this."""
    least: float | None = None
    """The target: no less than this."""
    unit: str = ""
    """Of value and target; empty: a ratio."""
    detail: str = ""

    @property
    def met(self) -> bool:
        return (self.most is None or self.value < self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        bounds = [f"< {self.most:g}"] if self.most is not None else []
        bounds += [f">= {self.least:g}"] if self.least is not None else []
        target = f"target {' and '.join(bounds)}{'' if self.met else ', missed'}" if bounds else ""
        return f"  {self.name:<52} {self.value:8.3g} {self.unit:<4} {target:<24} {self.detail}".rstrip()


def write_json(found: Mapping[str, Iterable[Figure]], path: Path) -> None:
    """Figures by section."""
    values = {
        section: [asdict(figure) | {"met": figure.met} for figure in figures] for section, figures in found.items()
    }
    path.write_text(json.dumps(values, indent=1) + "\n")
