"""Parts from raw media to committed shards, one Ray Data task each: measure every source, cut its clips, write, commit.

<output>/pool/_plan/      which sources make which part
<output>/pool/shards/     mp4 + flac + sampled frames per clip
<output>/pool/clips/      one row per clip: spans, scores, hashes, where its files lie
<output>/pool/sources/    one row per source: probe, status, why it was rejected
<output>/pool/_commits/   what is true

Decoding runs in a sandboxed child process under time and memory limits; whatever happens to one source becomes
its rejection and leaves its neighbours alone. Only the store failing (a full disk, S3 down) fails the part.
"""

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.curation.pool import tables
from pipelines.curation.pool.films.steps import Division, FinishedFilm, finished_films, forget_films, prepare_films
from pipelines.curation.pool.joining import join_short_audio
from pipelines.curation.pool.plan import Part
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Clip, Kind, Rejection, Source, SourceReport, Status, TakenDown
from pipelines.curation.sources.find import opened
from pipelines.dataset.tables import encode
from skyreels import leftovers, parts
from skyreels.commits import Commit, CommitLog, describe
from skyreels.leftovers import scratch_folder
from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.sandbox import Sandbox
from skyreels.shards import open_shards
from skyreels.storage import Storage, StorageError, sha256_file

Report = Callable[[SourceReport], None]
_TRIES = 3
_AT_ONCE, _SMALL_BYTES = 32, 16 << 20  # pictures of one call to the child, and how large one of them may be
_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, StorageError)
_NOTHING = TakenDown()
_DIVISION = Division()
_TAKE = "pipelines.curation.pool.stills:take_pictures"
_PART: TypeAdapter[Part] = TypeAdapter(Part)


@dataclass(frozen=True)
class PartResult:
    """What a part came to, for progress; the truth is in its commit."""

    part_id: str
    sources: int
    failed: int
    clips: int
    seconds: float
    bytes: int
    wall_s: float


def extract_parts(
    planned: Sequence[Part], extract: ExtractConfig, pool: Storage, taken: TakenDown = _NOTHING
) -> Iterator[PartResult]:
    """Run parts on the Ray cluster, one task each, and yield what they came to as they end.

    What was taken down since a part was planned stays out of it. Raises Incomplete, when all the others are committed,
    where the store failed.
    """
    prepare_films(planned, extract, pool, taken, _DIVISION, parts.run_parts, _sandbox)
    make_worker = partial(_Extractor, extract.model_dump_json(), pool.root, taken, _DIVISION, counting=True)
    yield from _results(parts.run_parts(_as_work(planned), make_worker), pool)


def extract_in_process(
    planned: Sequence[Part], extract: ExtractConfig, pool: Storage, division: Division = _DIVISION
) -> Iterator[PartResult]:
    """The same work in a plain loop: the baseline that Ray's overhead is measured against."""
    prepare_films(planned, extract, pool, _NOTHING, division, parts.run_in_process, _sandbox)
    make_worker = partial(_Extractor, extract.model_dump_json(), pool.root, _NOTHING, division, counting=False)
    yield from _results(parts.run_in_process(_as_work(planned), make_worker), pool)


def extract_part(
    part: Part,
    extract: ExtractConfig,
    pool: Storage,
    sandbox: Sandbox,
    progress: Report,
    taken: TakenDown = _NOTHING,
    films: Mapping[str, FinishedFilm] | None = None,
) -> PartResult:
    """Run one part and commit it. A rerun writes the same bytes under the same names.

    Long `films` (by source id) whose clips are ready are not decoded again.
    """
    started = time.monotonic()
    with scratch_folder("part") as scratch:
        reports = []
        for report in extract_sources(part.sources, extract, sandbox, scratch, part.attempt, taken, films):
            progress(report)
            reports.append(report)
        join_short_audio(reports, extract, scratch)
        _write(part, reports, extract, pool, scratch)
    return PartResult(
        part_id=part.part_id,
        sources=len(reports),
        failed=sum(report.status is not Status.OK for report in reports),
        clips=sum(clip.rejection is None for report in reports for clip in report.clips),
        seconds=sum(report.seconds for report in reports),
        bytes=sum(report.source.size for report in reports),
        wall_s=time.monotonic() - started,
    )


def extract_sources(
    sources: Sequence[Source],
    extract: ExtractConfig,
    sandbox: Sandbox,
    scratch: Path,
    attempt: int = 1,
    taken: TakenDown = _NOTHING,
    films: Mapping[str, FinishedFilm] | None = None,
) -> Iterator[SourceReport]:
    """A report of each source, in order. Small pictures that follow each other go to the child in one call."""
    for group in _company(sources):
        found = _pictures(group, extract, sandbox, scratch, attempt, taken) if len(group) > 1 else {}
        for source in group:
            film = (films or {}).get(source.source_id)
            ready = found.get(source.source_id) if film is None else film.report(scratch, attempt, taken)
            yield ready or extract_source(source, extract, sandbox, scratch, attempt, taken)


def extract_source(
    source: Source,
    extract: ExtractConfig,
    sandbox: Sandbox,
    scratch: Path,
    attempt: int = 1,
    taken: TakenDown = _NOTHING,
) -> SourceReport:
    """Measure one source and cut its clips into `scratch` as `<key>.mp4`, `<key>.flac`, … ; never raises for it.

    A source that was taken down, under this name or another, is not looked at.
    """
    report = SourceReport(source=source, status=Status.OK, attempts=attempt)
    if _is_out(report, taken):
        return report
    try:
        if "_unreadable" in source.meta:
            raise MediaError("unreadable_container", "repair or replace the tar", source.meta["_unreadable"])
        sandbox.limits.check_bytes(source.size, source.name or source.uri)  # before it is fetched
        with opened(source, scratch) as path:
            _in_sandbox(report, path, extract, sandbox, scratch, taken)
    except MediaError as error:
        if error.reason == "disk_full":  # not the source's fault: the part fails and is done again
            raise OSError(errno.ENOSPC, f"scratch space for {source.uri}: {error.detail}") from error
        report.status = Status.FAILED
        report.rejection = Rejection(
            stage=_stage_of(report), reason=error.reason, remedy=error.remedy, detail=error.detail
        )
    except _UNREADABLE as error:
        report.status = Status.FAILED
        remedy = "check that the file exists and may be read, then run with --replay-rejects"
        report.rejection = Rejection(stage="open", reason="unreadable", remedy=remedy, detail=str(error))
    return report


def media_limits(extract: ExtractConfig) -> MediaLimits:
    limits = extract.limits
    return MediaLimits(
        max_file_bytes=int(limits.max_file_gb * 2**30),
        max_pixels=limits.max_pixels,
        max_duration_s=limits.max_hours * 3600,
        cpu_s=limits.wall_floor_s + limits.wall_per_media_s * limits.max_hours * 3600,
        memory_bytes=int(limits.memory_gb * 2**30),
    )


def _as_work(planned: Sequence[Part]) -> list[parts.Part]:
    return [parts.Part(part.part_id, _PART.dump_json(part).decode()) for part in planned]


def _results(outcomes: Iterator[parts.Outcome], pool: Storage) -> Iterator[PartResult]:
    return (PartResult(**outcome.facts) for outcome in parts.committed(outcomes, pool.root))


class _Extractor:
    """Takes parts into the pool; `counting` tells Ray's metrics of the sources."""

    def __init__(self, extract: str, pool: str, taken: TakenDown, division: Division, *, counting: bool) -> None:
        self._extract, self._pool, self._taken, self._division = extract, Storage(pool), taken, division
        self._report: Callable[[SourceReport], None] = _counter() if counting else _untold

    def __call__(self, part: parts.Part) -> dict[str, Any]:
        planned, extract = _PART.validate_json(part.work), ExtractConfig.model_validate_json(self._extract)
        sandbox = _sandbox(self._extract)
        films = finished_films(planned, self._pool, self._division)
        result = extract_part(planned, extract, self._pool, sandbox, self._report, self._taken, films)
        forget_films(self._pool, planned, self._division)
        return asdict(result)


class _SourceCounter:
    """Reports finished sources to Ray's Prometheus endpoint, from inside a worker."""

    def __init__(self) -> None:
        from ray.util import metrics

        self._sources = metrics.Counter("skyreels_curation_sources", "Sources finished", ("kind", "status"))
        self._clips = metrics.Counter("skyreels_curation_clips", "Clips cut", ("kind",))
        self._seconds = metrics.Counter("skyreels_curation_media_seconds", "Seconds of media read", ("kind",))
        self._cpu = metrics.Counter("skyreels_curation_cpu_seconds", "CPU seconds spent", ("stage",))

    def __call__(self, report: SourceReport) -> None:
        kind = report.source.kind.value
        cut = sum(clip.rejection is None for clip in report.clips)
        self._sources.inc(1, {"kind": kind, "status": report.status.value})
        if cut:
            self._clips.inc(cut, {"kind": kind})
        if report.seconds:
            self._seconds.inc(report.seconds, {"kind": kind})
        for stage, seconds in report.timings.items():
            if seconds > 0:
                self._cpu.inc(seconds, {"stage": stage})


def _untold(report: SourceReport) -> None:
    """Nobody counts."""


@lru_cache(maxsize=1)
def _counter() -> _SourceCounter:
    return _SourceCounter()


@lru_cache(maxsize=1)
def _sandbox(extract: str) -> Sandbox:
    """One decoding child per worker process, kept for all its parts."""
    leftovers.sweep_scratch()  # a worker before this one may have died at its work
    config = ExtractConfig.model_validate_json(extract)
    # Large libraries are counted as part of the idle child: importing torch takes more memory than many a source may.
    network = ("pipelines.curation.visual.transnet",) if config.shots.backend == "transnet" else ()
    measuring = ("pipelines.curation.pool.stills", "pipelines.curation.pool.films.stretches", "scipy.signal")
    return Sandbox(media_limits(config), preload=(*measuring, *network))


def _is_out(report: SourceReport, taken: TakenDown) -> bool:
    why = taken.rejection(report.source.source_id, report.sha256)
    if why is not None:
        report.status, report.rejection = Status.REJECTED, why
    return why is not None


def _in_sandbox(
    report: SourceReport, path: Path, extract: ExtractConfig, sandbox: Sandbox, scratch: Path, taken: TakenDown
) -> None:
    limits = extract.limits
    request: dict[str, Any] = {
        "path": str(path),
        "source_id": report.source.source_id,
        "extract": extract.model_dump(mode="json"),
        "limits": asdict(sandbox.limits),
    }

    def ask(function: str, wall_s: float) -> dict[str, Any]:
        for again in range(_TRIES - 1, -1, -1):
            try:
                return sandbox.call(f"pipelines.curation.pool.{function}", request, wall_s=wall_s, scratch=scratch)
            except MediaError as error:
                if error.reason != "child_killed" or not again:  # killed from outside: not the source's doing
                    raise
        raise AssertionError("unreachable")

    probed = ask("measure:probe_source", limits.wall_floor_s)
    report.sha256 = sha256_file(path)  # only now: what a failed download left may be large, and hold nothing
    if _is_out(report, taken):
        return
    report.probe, report.seconds = probed["probe"], probed["seconds"]
    report.source = report.source.model_copy(update={"kind": Kind(probed["kind"])})
    request |= {"probe": probed["probe"], "kind": probed["kind"]}
    wall_s = limits.wall_floor_s + limits.wall_per_media_s * report.seconds
    measured = ask("measure:measure_source", wall_s)
    report.timings |= measured["timings"]
    report.uncovered, report.cuts_s = measured["uncovered"], measured["cuts_s"]
    report.transitions = measured["transitions"]
    if measured["rejection"] is not None:
        report.status, report.rejection = Status.REJECTED, Rejection(**measured["rejection"])
        return
    request["clips"] = measured["clips"]
    cut = ask("cut:cut_clips", wall_s)
    for stage, cpu_s in cut["timings"].items():  # sound is measured twice: the whole track, and what was cut of it
        report.timings[stage] = report.timings.get(stage, 0.0) + cpu_s
    report.clips = [Clip.model_validate(clip) for clip in cut["clips"]]


def _company(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Consecutive pictures in groups, everything else alone."""
    for small, group in groupby(sources, lambda source: source.kind is Kind.IMAGE and source.size <= _SMALL_BYTES):
        while some := list(islice(group, _AT_ONCE if small else 1)):
            yield some


def _pictures(
    sources: Sequence[Source],
    extract: ExtractConfig,
    sandbox: Sandbox,
    scratch: Path,
    attempt: int,
    taken: TakenDown,
) -> dict[str, SourceReport]:
    """Reports of the still pictures with which nothing is wrong, by source id.

    The others are to be looked at alone, which tells what is wrong with each; all of them, where the child did not
    come through.
    """
    with ExitStack() as stack:
        asked = {}
        for source in sources:
            report = SourceReport(source=source, status=Status.OK, attempts=attempt)
            if "_unreadable" in source.meta or _is_out(report, taken):
                continue
            try:
                path = stack.enter_context(opened(source, scratch))
                report.sha256 = sha256_file(path)
            except _UNREADABLE:
                continue
            if not _is_out(report, taken):
                asked[source.source_id] = report, str(path)
        request = {
            "pictures": {source_id: path for source_id, (_, path) in asked.items()},
            "extract": extract.model_dump(mode="json"),
            "limits": asdict(sandbox.limits),
        }
        try:
            reply = sandbox.call(_TAKE, request, wall_s=extract.limits.wall_floor_s, scratch=scratch)
        except MediaError:
            return {}
    reports = {source_id: asked[source_id][0] for source_id in reply["taken"]}
    for source_id, report in reports.items():
        found = reply["taken"][source_id]
        report.probe, report.timings = found["probe"], found["timings"]
        report.clips = [Clip.model_validate(found["clip"])]
    return reports


def _stage_of(report: SourceReport) -> str:
    """The stage a source failed in, from how far it had come."""
    if not report.probe:
        return "probe"
    return "cut" if report.timings else "measure"


def _write(part: Part, reports: list[SourceReport], extract: ExtractConfig, pool: Storage, scratch: Path) -> None:
    """Shards first, then the two tables, then the commit record, which makes them true."""
    clips = sorted((clip for report in reports for clip in report.clips), key=lambda clip: clip.key)
    files: dict[str, dict[str, bytes | Path]] = {}
    for path in sorted(scratch.iterdir()):
        key, _, extension = path.name.partition(".")
        files.setdefault(key, {})[extension] = path
    with open_shards(pool, f"shards/{part.part_id}") as shards:
        for clip in clips:
            if clip.rejection is None:
                shards.add(clip.key, files.get(clip.key, {}))
    named = {
        f"clips/{part.part_id}.parquet": tables.clip_table(tables.clip_rows(part.part_id, clips, shards.members)),
        f"sources/{part.part_id}.parquet": tables.source_table(tables.source_rows(part.part_id, reports)),
    }
    written = list(shards.files)
    for name, table in named.items():
        with pool.staged(name) as path:
            path.write_bytes(encode(table))
            written.append(describe(name, path))
    facts = {"extract": extract.identity, "attempt": part.attempt, "sources": _statuses(reports)}
    CommitLog(pool).commit(Commit(part_id=part.part_id, files=tuple(written), facts=facts))


def _statuses(reports: Iterable[SourceReport]) -> dict[str, str]:
    return {
        report.source.source_id: report.status.value + (f":{report.rejection.reason}" if report.rejection else "")
        for report in reports
    }
