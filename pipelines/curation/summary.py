"""What a run came to, in numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.curation.records import Status
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.tables import Row
from skyreels.storage import Storage


@dataclass(frozen=True)
class Work:
    """What one run read and cut, as opposed to what the pool holds."""

    seconds: float = 0.0
    clips: int = 0
    bytes: int = 0
    failed: int = 0  # sources without a clip

    def plus(self, seconds: float, clips: int, size: int, failed: int) -> "Work":
        return Work(self.seconds + seconds, self.clips + clips, self.bytes + size, self.failed + failed)


@dataclass(frozen=True)
class Dataset:
    """A finished dataset: where it is and what it came to."""

    location: str
    sources: int
    failed_sources: int
    clips: int
    kept: int
    seconds_in: float
    seconds_kept: float
    buckets: dict[str, int]
    rejected: dict[str, int]  # `stage:reason` -> count, the largest first
    took_most: str  # the largest of them in words, with what it saw and what to do; empty where nothing was rejected
    wall_s: float
    cpu_s: dict[str, float]  # per stage, over everything in the pool

    @property
    def manifest(self) -> str:
        return f"{self.location}/{MANIFEST}"

    @property
    def rejects(self) -> str:
        return f"{self.location}/rejects.parquet"

    @property
    def report(self) -> str:
        return f"{self.location}/report.html"


def summarise(
    store: Storage,
    sources: Sequence[Row],
    clips: Sequence[Row],
    chosen: Mapping[str, Row],
    rejects: Sequence[Row],
    wall_s: float,
) -> Dataset:
    rejected: dict[str, int] = {}
    buckets: dict[str, int] = {}
    cpu: dict[str, float] = {}
    for row in rejects:
        rejected[_why(row)] = rejected.get(_why(row), 0) + 1
    rejected = dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0])))
    for clip in chosen.values():
        buckets[clip["bucket"]] = buckets.get(clip["bucket"], 0) + 1
    for source in sources:
        for stage, seconds in json.loads(source["timings"]).items():
            cpu[stage] = cpu.get(stage, 0.0) + seconds
    return Dataset(
        location=store.root,
        sources=len(sources),
        failed_sources=sum(source["status"] == Status.FAILED for source in sources),
        clips=sum(clip["stage"] is None for clip in clips),
        kept=len(chosen),
        seconds_in=sum(source["seconds"] for source in sources),
        seconds_kept=sum(clip["end_s"] - clip["start_s"] for clip in chosen.values()),
        buckets=dict(sorted(buckets.items())),
        rejected=rejected,
        took_most=_took_most(rejected, rejects),
        wall_s=wall_s,
        cpu_s=cpu,
    )


def _took_most(rejected: Mapping[str, int], rejects: Sequence[Row]) -> str:
    """`filter:basic:short_side took 4 of 5 (short_side = 240 < 480): change this rule …`."""
    if not rejected:
        return ""
    most, count = next(iter(rejected.items()))
    one = next(row for row in rejects if _why(row) == most)
    seen = f" (such as: {one['detail']})" if one["detail"] else ""
    return f"{most} took most, {count} of {len(rejects)}{seen}: {one['remedy']}"


def _why(row: Row) -> str:
    return f"{row['stage']}:{row['reason']}"
