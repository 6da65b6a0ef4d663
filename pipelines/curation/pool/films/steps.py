"""Long films in steps that run beside each other: stretches between key frames, the sound, then groups of clips.

<output>/pool/_films/<film>/    what its steps left, each committed; gone once the film's part is

    plan -> look at every stretch, hear the track -> measure the whole -> cut groups of clips

A step is a part of its own (`skyreels/parts.py`), so a killed run goes on with the steps that are left. The film's own
part then finds its clips ready and writes them with its neighbours, the same rows and bytes as if it had measured and
cut the film by itself. That it does where a step could not do its work: no film is lost by being divided.
"""

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.curation.pool.films import copies
from pipelines.curation.pool.plan import Part
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Clip, Kind, Source, SourceReport, Status, TakenDown
from skyreels import parts
from skyreels.commits import Commit, CommitLog, CommittedFile, describe
from skyreels.leftovers import scratch_folder
from skyreels.media.errors import MediaError
from skyreels.media.sandbox import Sandbox
from skyreels.shards import Member, open_shards, read_member
from skyreels.storage import DamageError, Storage, sha256_file

logger = logging.getLogger(__name__)

Run = Callable[[Sequence[parts.Part], Callable[[], parts.Worker]], Iterator[parts.Outcome]]
_FOLDER = "_films"
_CHILD = "pipelines.curation.pool"
_WHOLE = "whole"  # in a commit's facts: why the film cannot be divided
_Done = Mapping[str, Commit]


@dataclass(frozen=True)
class Division:
    """Which films are divided: those of `min_bytes` and more, into stretches of `stretch_s` seconds and more."""

    min_bytes: int = 64 << 20
    stretch_s: float = 300.0
    clips: int = 32  # that one step cuts


_Steps = Callable[["_Film", _Done, Division], list[parts.Part]]


def prepare_films(
    planned: Sequence[Part],
    extract: ExtractConfig,
    pool: Storage,
    taken: TakenDown,
    division: Division,
    run: Run,
    sandbox: Callable[[str], Sandbox],
) -> None:
    """Take the long films among the sources of these parts as far as their parts need not decode them."""
    films = [
        film for part in planned for film in _films(part, division) if film.source.source_id not in taken.source_ids
    ]
    _forget(pool, lambda film_id: film_id not in {film.film_id for film in films})
    make_worker = partial(_Step, extract.model_dump_json(), pool.root, division, sandbox)
    for steps in (_plan, _look, _measure, _cut) if films else ():
        todo = [step for film in films for step in _left(film, steps, pool, division)]
        for outcome in run(todo, make_worker):
            if outcome.failure:  # the film's part meets the same store, and fails with it
                logger.warning("a long film, %s: %s: %s", outcome.part_id, outcome.failure, outcome.detail)


@dataclass(frozen=True)
class FinishedFilm:
    """A film whose clips are ready."""

    source: Source
    plan: Commit
    measured: Commit
    cuts: Sequence[Commit]
    store: Storage

    def report(self, scratch: Path, attempt: int, taken: TakenDown) -> SourceReport | None:
        """As if it had been measured and cut here, with its files in `scratch`; None, if it is another file by now."""
        facts = self.plan.facts
        try:
            with copies.at_hand(self.source, scratch) as path:
                if sha256_file(path) != facts["sha256"]:
                    return None
            measured = _read(self.store, self.measured)
            clips = [clip for commit in self.cuts for clip in _read(self.store, commit)]
            self._unpack(scratch)
        except (OSError, DamageError) as error:
            logger.warning("%s is taken whole after all: %s", self.source.uri, error)
            return None
        source = self.source.model_copy(update={"kind": Kind(facts["kind"])})
        report = SourceReport(source=source, status=Status.OK, attempts=attempt, sha256=facts["sha256"])
        why = taken.rejection(source.source_id, report.sha256)
        if why is not None:
            report.status, report.rejection = Status.REJECTED, why
            return report
        report.probe, report.seconds = facts["probe"], facts["seconds"]
        report.uncovered, report.cuts_s = measured["uncovered"], measured["cuts_s"]
        report.transitions = measured["transitions"]
        report.timings = _added([measured["timings"], *(commit.facts["timings"] for commit in self.cuts)])
        report.clips = [Clip.model_validate(clip) for clip in clips]
        return report

    def _unpack(self, scratch: Path) -> None:
        for commit in (self.measured, *self.cuts):
            for key, held in commit.facts["members"].items():
                for extension, place in held.items():
                    (scratch / f"{key}.{extension}").write_bytes(read_member(self.store, Member(*place)))


def finished_films(part: Part, pool: Storage, division: Division) -> dict[str, FinishedFilm]:
    """The films of a part whose clips are ready, by source id."""
    ready = {}
    for film in _films(part, division):
        store = film.store(pool)
        done = CommitLog(store).intact()
        plan, measured = done.get(f"{film.film_id}-plan"), done.get(f"{film.film_id}-measure")
        cuts = [done.get(step.part_id) for step in _cut(film, done, division)]
        if plan is None or measured is None or any(_is_whole(commit) for commit in (plan, measured, *cuts)):
            continue
        whole = [commit for commit in cuts if commit is not None]
        ready[film.source.source_id] = FinishedFilm(film.source, plan, measured, whole, store)
    return ready


def forget_films(pool: Storage, part: Part, division: Division) -> None:
    """Delete what the steps left of a part's films."""
    for film in _films(part, division):
        store = film.store(pool)
        for name in _commits_first(store.names()):
            store.delete(name)
        copies.forget(film.source)


def forget_sources(pool: Storage, source_ids: frozenset[str]) -> None:
    """Delete what the steps left of these sources."""
    _forget(pool, lambda film_id: film_id.rpartition("-")[2] in source_ids)


@dataclass(frozen=True)
class _Film:
    film_id: str
    source: Source

    def store(self, pool: Storage) -> Storage:
        return pool.sub(f"{_FOLDER}/{self.film_id}")

    def step(self, name: str, **arguments: Any) -> parts.Part:
        work = {"name": name, "film": self.film_id, "source": self.source.model_dump(mode="json"), **arguments}
        return parts.Part(f"{self.film_id}-{name}", json.dumps(work))


def _films(part: Part, division: Division) -> list[_Film]:
    return [
        _Film(f"{part.part_id}-{source.source_id}", source)
        for source in part.sources
        if source.kind is Kind.VIDEO and source.size >= division.min_bytes
    ]


def _left(film: _Film, steps: _Steps, pool: Storage, division: Division) -> list[parts.Part]:
    """Those of these steps that are not done, or whose files are not there as committed."""
    done = CommitLog(film.store(pool)).intact()
    return [step for step in steps(film, done, division) if step.part_id not in done]


def _plan(film: _Film, done: _Done, division: Division) -> list[parts.Part]:
    return [film.step("plan")]


def _look(film: _Film, done: _Done, division: Division) -> list[parts.Part]:
    plan = done.get(f"{film.film_id}-plan")
    if _is_whole(plan):
        return []
    assert plan is not None
    told = {name: plan.facts[name] for name in ("probe", "kind", "seconds")}
    looks = [film.step(f"look-{n:04d}", stretch=one, **told) for n, one in enumerate(plan.facts["stretches"])]
    return [*looks, film.step("sound", **told)]


def _measure(film: _Film, done: _Done, division: Division) -> list[parts.Part]:
    found = [done.get(step.part_id) for step in _look(film, done, division)]
    if not found or any(_is_whole(commit) for commit in found):
        return []
    plan = done[f"{film.film_id}-plan"].facts
    *looks, sound = [[file.name for file in commit.files] for commit in found if commit is not None]
    told = {name: plan[name] for name in ("probe", "kind", "seconds", "stretches")}
    spent = [plan["timings"], *(commit.facts["timings"] for commit in found if commit is not None)]
    return [film.step("measure", looks=[names[0] for names in looks], sound=sound, spent=spent, **told)]


def _cut(film: _Film, done: _Done, division: Division) -> list[parts.Part]:
    measured = done.get(f"{film.film_id}-measure")
    if _is_whole(measured):
        return []
    assert measured is not None
    plan, count = done[f"{film.film_id}-plan"].facts, measured.facts["clips"]
    told = {name: plan[name] for name in ("probe", "kind", "seconds")}
    file = measured.files[0].model_dump()
    return [
        film.step(f"cut-{first:05d}", first=first, end=first + division.clips, measured=file, **told)
        for first in range(0, count, division.clips)
    ]


def _is_whole(commit: Commit | None) -> bool:
    """Whether a step is missing, or found that its film must not be divided."""
    return commit is None or _WHOLE in commit.facts


class _Step:
    """Does a step and commits it, also where it finds that the film has to be taken whole."""

    def __init__(self, extract: str, pool: str, division: Division, sandbox: Callable[[str], Sandbox]) -> None:
        self._pool, self._division = Storage(pool), division
        self._extract = ExtractConfig.model_validate_json(extract)
        self._sandbox = sandbox(extract)

    def __call__(self, part: parts.Part) -> Mapping[str, Any]:
        work = json.loads(part.work)
        files: list[CommittedFile] = []
        try:
            film = Source.model_validate(work["source"])
            with scratch_folder("film") as scratch, copies.at_hand(film, scratch) as path:
                facts = self._done(work, path, scratch, files)
        except MediaError as error:
            if error.reason == "disk_full":
                raise OSError(errno.ENOSPC, f"scratch space for {work['source']['uri']}: {error.detail}") from error
            files, facts = [], {_WHOLE: str(error)}
        except (FileNotFoundError, PermissionError, DamageError) as error:  # its part says so of the source
            files, facts = [], {_WHOLE: str(error)}
        if _WHOLE in facts:
            logger.info("%s is taken whole: %s", work["source"]["uri"], facts[_WHOLE])
        CommitLog(self._store(work)).commit(Commit(part_id=part.part_id, files=tuple(files), facts=facts))
        return {}

    def _store(self, work: dict[str, Any]) -> Storage:
        return self._pool.sub(f"{_FOLDER}/{work['film']}")

    def _done(self, work: dict[str, Any], path: Path, scratch: Path, files: list[CommittedFile]) -> dict[str, Any]:
        kind = work["name"].partition("-")[0]
        steps = {
            "plan": self._plan,
            "look": self._look,
            "sound": self._hear,
            "measure": self._measure,
            "cut": self._cut,
        }
        return steps[kind](work, path, scratch, files)

    def _plan(self, work: dict[str, Any], path: Path, scratch: Path, files: list[CommittedFile]) -> dict[str, Any]:
        facts = self._ask("measure:probe_source", work, path, scratch)
        told = {**work, **facts}
        planned = self._ask("films.stretches:plan_film", told, path, scratch, stretch_s=self._division.stretch_s)
        why = {} if planned["stretches"] else {_WHOLE: "it is too short, or not of a kind that can be divided"}
        return {**facts, **planned, **why, "sha256": sha256_file(path)}

    def _look(self, work: dict[str, Any], path: Path, scratch: Path, files: list[CommittedFile]) -> dict[str, Any]:
        facts = self._ask("films.stretches:look_at_stretch", work, path, scratch, stretch=work["stretch"])
        files.append(self._keep(work, f"{work['name']}.npz", scratch / "look.npz"))
        return facts

    def _hear(self, work: dict[str, Any], path: Path, scratch: Path, files: list[CommittedFile]) -> dict[str, Any]:
        facts = self._ask("films.stretches:hear_film", work, path, scratch)
        if (scratch / "sound.npz").exists():
            files.append(self._keep(work, "sound.npz", scratch / "sound.npz"))
        return facts

    def _measure(self, work: dict[str, Any], path: Path, scratch: Path, files: list[CommittedFile]) -> dict[str, Any]:
        held = {}
        for name in [*work["looks"], *work["sound"]]:
            held[name] = scratch / name
            held[name].write_bytes(self._store(work).read(name))
        found = self._ask(
            "films.stretches:measure_film", work, path, scratch, stretches=work["stretches"],
            looks=[str(held[name]) for name in work["looks"]], sound=[str(held[name]) for name in work["sound"]],
        )  # fmt: skip
        found["timings"] = _added([*work["spent"], found["timings"]])
        for path in held.values():
            path.unlink()
        members = self._pack(work, [clip["key"] for clip in found["clips"]], scratch, files, found)
        return {"clips": len(found["clips"]), "members": members}

    def _cut(self, work: dict[str, Any], path: Path, scratch: Path, files: list[CommittedFile]) -> dict[str, Any]:
        file = CommittedFile.model_validate(work["measured"])
        clips = json.loads(CommitLog(self._store(work)).read_file(file))["clips"][work["first"] : work["end"]]
        found = self._ask("cut:cut_clips", work, path, scratch, clips=clips)
        members = self._pack(work, [clip["key"] for clip in clips], scratch, files, found["clips"])
        return {"members": members, "timings": found["timings"]}

    def _ask(self, function: str, work: dict[str, Any], path: Path, scratch: Path, **more: Any) -> dict[str, Any]:
        limits = self._extract.limits
        request: dict[str, Any] = {
            "path": str(path),
            "source_id": work["source"]["source_id"],
            "extract": self._extract.model_dump(mode="json"),
            "limits": asdict(self._sandbox.limits),
            **{name: work[name] for name in ("probe", "kind") if name in work},
            **more,
        }
        wall_s = limits.wall_floor_s + limits.wall_per_media_s * work.get("seconds", 0.0)
        return self._sandbox.call(f"{_CHILD}.{function}", request, wall_s=wall_s, scratch=scratch)

    def _pack(
        self, work: dict[str, Any], keys: Sequence[str], scratch: Path, files: list[CommittedFile], told: Any
    ) -> dict[str, Any]:
        """Keep what the child told, and the files that it left of these clips; where each lies."""
        (scratch / "told.json").write_text(json.dumps(told))
        files.append(self._keep(work, f"{work['name']}.json", scratch / "told.json"))
        held: dict[str, dict[str, bytes | Path]] = {}
        for path in sorted(scratch.iterdir()):
            key, _, extension = path.name.partition(".")
            held.setdefault(key, {})[extension] = path
        with open_shards(self._store(work), work["name"]) as shards:
            for key in keys:
                if key in held:
                    shards.add(key, held[key])
        files.extend(shards.files)
        return {key: {ext: member.place for ext, member in some.items()} for key, some in shards.members.items()}

    def _keep(self, work: dict[str, Any], name: str, path: Path) -> CommittedFile:
        with self._store(work).staged(name) as staged:
            shutil.copyfile(path, staged)
            return describe(name, staged)


def _added(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """CPU seconds by stage, of several steps."""
    stages = sorted({stage for some in timings for stage in some})
    return {stage: sum(some.get(stage, 0.0) for some in timings) for stage in stages}


def _read(store: Storage, commit: Commit) -> Any:
    return json.loads(CommitLog(store).read_file(commit.files[0]))


def _forget(pool: Storage, goes: Callable[[str], bool]) -> None:
    for name in _commits_first(pool.names(_FOLDER)):
        if goes(name.split("/")[1]):
            pool.delete(name)


def _commits_first(names: Sequence[str]) -> list[str]:
    """In the order in which files are deleted: nothing may be vouched for that is gone."""
    return sorted(names, key=lambda name: "_commits/" not in name)
