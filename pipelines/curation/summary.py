"""What a run came to: in numbers, and a row for everything that is not in its dataset and why."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.curation.records import Rejection, Status
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.tables import Row
from skyreels.storage import Storage

_REJECT_TYPES = {
    **dict.fromkeys(("uri", "source_id", "key", "kind"), pa.string()),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "status": pa.string(),
    **dict.fromkeys(("stage", "reason", "remedy", "detail"), pa.string()),
    "attempts": pa.int32(),
}
_NO_CLIP = Rejection(
    stage="segment",
    reason="no_clip",
    remedy="nothing in it was long enough for a clip, or its sound was joined with one that was taken down",
)


@dataclass(frozen=True)
class Work:
    """What one run read and cut, as opposed to what the pool holds."""

    seconds: float = 0.0
    clips: int = 0
    bytes: int = 0
    failed: int = 0  # sources without a clip

    def plus(self, seconds: float, clips: int, size: int, failed: int) -> "Work":
        return Work(self.seconds + seconds, self.clips + clips, self.bytes + size, self.failed + failed)

    def status(self, wall_s: float) -> str:
        """What stands behind the bar: `48 clips, 0.12 h, 6.3x real time, 2 without a clip`."""
        speed = self.seconds / max(wall_s, 1e-9)
        return f"{self.clips} clips, {self.seconds / 3600:.2f} h, {speed:.1f}x real time, {self.failed} without a clip"


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


def together(parts: Sequence[Dataset], wall_s: float) -> Dataset:
    """What slices of a dataset came to in all."""
    counts = {name: Counter[str]() for name in ("buckets", "rejected", "cpu_s")}
    for part in parts:
        for name, counter in counts.items():
            counter.update(getattr(part, name))
    rejected = dict(sorted(counts["rejected"].items(), key=lambda item: (-item[1], item[0])))
    largest = max(parts, key=lambda part: part.rejected.get(next(iter(rejected), ""), 0))
    numbers = ("sources", "failed_sources", "clips", "kept", "seconds_in", "seconds_kept")
    return Dataset(
        location=parts[0].location,
        **{name: sum(getattr(part, name) for part in parts) for name in numbers},
        buckets=dict(sorted(counts["buckets"].items())),
        rejected=rejected,
        took_most=largest.took_most,
        wall_s=wall_s,
        cpu_s=dict(counts["cpu_s"]),
    )


def rejects_table(clips: Sequence[Row], decisions: Mapping[str, Rejection | None], sources: Sequence[Row]) -> pa.Table:
    """One row per source that gave nothing, per span that became no clip, and per clip that was not chosen.

    A joined clip that was not chosen has one row per source that it was joined from.
    """
    rows = [_of_source(source) for source in sources if source["stage"] is not None]
    heard = {piece for clip in clips for piece, _, _ in _pieces(clip)}
    for source in sources:
        rows += [_of_span(source, *span) for span in json.loads(source["uncovered"])]
        if source["stage"] is None and source["uncovered"] == "[]" and source["source_id"] not in heard:
            rows.append(_of_source(source | _NO_CLIP.model_dump()))
    by_id = {source["source_id"]: source for source in sources}
    for clip in clips:
        why = decisions[clip["key"]]
        if why is not None:
            rows += [_row(by_id[piece], why, clip["key"], start, end) for piece, start, end in _pieces(clip)]
    return pa.Table.from_pylist(rows, pa.schema(_REJECT_TYPES))


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


def _pieces(clip: Row) -> list[tuple[str, float, float]]:
    """Source, start and end of everything in a clip: one span, unless it was joined."""
    return json.loads(clip["parts"]) or [(clip["source_id"], clip["start_s"], clip["end_s"])]


def _of_source(source: Row) -> Row:
    why = Rejection(**{name: source[name] for name in ("stage", "reason", "remedy", "detail")})
    return _row(source, why, None, 0.0, source["seconds"])


def _of_span(source: Row, start_s: float, end_s: float, reason: str) -> Row:
    remedy = _REMEDIES.get(reason, "change extract.segments in the recipe; this makes new parts")
    return _row(source, Rejection(stage="segment", reason=reason, remedy=remedy), None, start_s, end_s)


_REMEDIES = {
    "no_picture": "none is needed: there is sound here, and no picture",
    "held": "none is needed: one picture stays on screen; with a larger extract.segments.min_s clips may hold it",
    "unread": "split the file where recordings were joined to it byte by byte, and give the parts",
}


def _row(source: Row, why: Rejection, key: str | None, start_s: float, end_s: float) -> Row:
    status = source["status"] if key is None else "rejected"
    return {
        "uri": source["uri"],
        "source_id": source["source_id"],
        "key": key,
        "kind": source["kind"],
        "start_s": start_s,
        "end_s": end_s,
        "status": status,
        "attempts": source["attempts"],
        **why.model_dump(),
    }
