"""From sources to samples: what each stage was given, what it let through, and why it stopped the rest."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.curation.records import Rejection, Status
from pipelines.curation.summary import rejects_table
from pipelines.dataset.tables import Row

# The order in which clips meet the stages. A stage that is not known here is shown after these.
_CLIP_STAGES = ("takedown", "gate", "cut", "filter", "dedup", "balance", "caption")
_ALWAYS_SHOWN = frozenset({"gate", "filter", "dedup", "balance", "caption"})


@dataclass(frozen=True)
class Step:
    """One bar of the funnel. `lost` went missing between the step before and this one."""

    name: str
    unit: str  # sources, clips
    count: int
    lost: int
    seconds: float
    share: float  # of the first step with this unit
    lost_share: float  # likewise


@dataclass(frozen=True)
class Reason:
    """How much one reason stopped: `count` of `what`, with an example of the detail."""

    stage: str
    reason: str
    what: str  # sources, spans, clips
    count: int
    seconds: float
    remedy: str
    example: str
    anchor: str  # the name by which the gallery filters, or empty where nothing can be shown


def funnel_steps(clips: pa.Table, sources: pa.Table, decisions: Mapping[str, Rejection | None]) -> list[Step]:
    """Sources, those that could be read, those wanted for clips; then clips, after each stage in order."""
    status = sources.column("status").to_pylist()
    seconds = dict.fromkeys(Status, 0.0)
    for state, played in zip(status, sources.column("seconds").to_pylist(), strict=True):
        seconds[Status(state)] += played
    given, read, wanted = len(status), len(status) - status.count(Status.FAILED), status.count(Status.OK)
    read_s = seconds[Status.OK] + seconds[Status.REJECTED]
    steps = [
        _step("sources", "sources", given, 0, sum(seconds.values()), given),
        _step("readable", "sources", read, given - read, read_s, given),
        _step("wanted", "sources", wanted, read - wanted, seconds[Status.OK], given),
    ]
    lengths = clip_seconds(clips)
    stopped: Counter[str] = Counter()
    stopped_s: dict[str, float] = defaultdict(float)
    for key, length in lengths.items():
        why = decisions[key]
        if why is not None:
            stopped[why.stage] += 1
            stopped_s[why.stage] += length
    left, left_s = len(lengths), sum(lengths.values())
    steps.append(_step("clips found", "clips", left, 0, left_s, left))
    known = [stage for stage in _CLIP_STAGES if stage in stopped or stage in _ALWAYS_SHOWN]
    for stage in [*known, *sorted(stopped.keys() - known)]:
        left, left_s = left - stopped[stage], left_s - stopped_s[stage]
        steps.append(_step(f"after {stage}", "clips", left, stopped[stage], left_s, len(lengths)))
    return steps


def reasons(clips: pa.Table, sources: pa.Table, decisions: Mapping[str, Rejection | None]) -> list[Reason]:
    """Every stage and reason with its count, the most frequent first; counts are those of `rejects.parquet`."""
    found = clips.select(["key", "source_id", "start_s", "end_s", "parts"]).to_pylist()
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rejects_table(found, decisions, sources.to_pylist()).to_pylist():
        groups.setdefault((row["stage"], row["reason"], _unit(row)), []).append(row)
    told = [_reason(stage, reason, what, rows) for (stage, reason, what), rows in groups.items()]
    return sorted(told, key=lambda r: (-r.count, r.stage, r.reason, r.what))


def steps_together(slices: Sequence[Sequence[Step]]) -> list[Step]:
    """The steps of all slices in one; a stage that not every slice has is given as it came where it is missing."""
    names = list(dict.fromkeys(step.name for steps in slices for step in steps))
    names.sort(key=lambda name: _STEP_ORDER.get(name, len(_STEP_ORDER)))
    summed = []
    for name in names:
        mine = [_step_of(steps, name) for steps in slices]
        lost = sum(step.lost for step in mine if step.name == name)
        summed.append((name, mine[0].unit, sum(step.count for step in mine), lost, sum(step.seconds for step in mine)))
    first = {unit: next(count for _, u, count, _, _ in summed if u == unit) for unit in ("sources", "clips")}
    return [_step(*numbers, first[numbers[1]]) for numbers in summed]


_STEP_ORDER = {
    name: place
    for place, name in enumerate(
        ["sources", "readable", "wanted", "clips found", *(f"after {stage}" for stage in _CLIP_STAGES)]
    )
}


def _step_of(steps: Sequence[Step], name: str) -> Step:
    """The step of that name; else the last one before it."""
    place = _STEP_ORDER.get(name, len(_STEP_ORDER))
    exact = [step for step in steps if step.name == name]
    return exact[0] if exact else [s for s in steps if _STEP_ORDER.get(s.name, len(_STEP_ORDER)) <= place][-1]


def reasons_together(slices: Sequence[Sequence[Reason]]) -> list[Reason]:
    """The reasons of all slices, counted together; example and remedy are of the slice that had the most."""
    groups: dict[tuple[str, str, str], list[Reason]] = {}
    for told in slices:
        for reason in told:
            groups.setdefault((reason.stage, reason.reason, reason.what), []).append(reason)
    summed = [
        replace(
            max(group, key=lambda one: one.count),
            count=sum(one.count for one in group),
            seconds=sum(one.seconds for one in group),
        )
        for group in groups.values()
    ]
    return sorted(summed, key=lambda r: (-r.count, r.stage, r.reason, r.what))


def clip_seconds(clips: pa.Table) -> dict[str, float]:
    """Length of each clip by key; an image has none."""
    columns = (clips.column(name).to_pylist() for name in ("key", "start_s", "end_s"))
    return {key: end - start for key, start, end in zip(*columns, strict=True)}


def _step(name: str, unit: str, count: int, lost: int, seconds: float, of: int) -> Step:
    return Step(name, unit, count, lost, seconds, count / max(1, of), lost / max(1, of))


def _unit(row: Row) -> str:
    if row["key"] is not None:
        return "clips"
    return "spans" if row["stage"] == "segment" and row["reason"] != "no_clip" else "sources"


def _reason(stage: str, reason: str, what: str, rows: Sequence[Row]) -> Reason:
    return Reason(
        stage=stage,
        reason=reason,
        what=what,
        count=len(rows),
        seconds=sum(row["end_s"] - row["start_s"] for row in rows),
        remedy=Counter(row["remedy"] for row in rows).most_common(1)[0][0],
        example=next((row["detail"] for row in rows if row["detail"]), ""),
        anchor=f"{stage}:{reason}" if what == "clips" else "",
    )
