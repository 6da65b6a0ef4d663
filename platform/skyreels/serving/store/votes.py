"""Which of two clips was better, how good one is, and which two to ask about next."""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.records import Job, State
from skyreels.serving.store.schema import jobs, ratings, votes

_NEWEST = 200


@dataclass(frozen=True)
class Pair:
    """Two completed jobs of one prompt by different models, in the order in which they are shown."""

    item: str
    first: str
    second: str


@dataclass(frozen=True)
class Votes:
    """The votes in a store's database."""

    store: JobStore

    def next_pair(self, owner: str) -> Pair | None:
        """The pair of the owner's clips that has been judged least; its order turns from vote to vote."""
        with self.store.reader.begin() as connection:
            mine = (jobs.c.owner == owner) & (jobs.c.state == State.COMPLETED) & sa.not_(jobs.c.hidden)
            query = sa.select(jobs).where(mine).order_by(jobs.c.created_at.desc()).limit(_NEWEST)
            done = [Job(**{**row._mapping, "stages": tuple(row.stages)}) for row in connection.execute(query)]
            cast = sa.select(votes.c.item, votes.c.first, votes.c.second).where(votes.c.rater == owner)
            seen = Counter(_key(row.item, row.first, row.second) for row in connection.execute(cast))
        pairs = list(_pairs(done))
        if not pairs:
            return None
        one, other = min(pairs, key=lambda pair: seen[_key(_item(pair[0]), *map(shown_as, pair))])
        key = _key(_item(one), shown_as(one), shown_as(other))
        one, other = sorted((one, other), key=shown_as)
        if (zlib.crc32("/".join(key).encode()) + seen[key]) % 2:
            one, other = other, one
        return Pair(_item(one), one.id, other.id)

    def cast(self, rater: str, first: Job, second: Job, dimension: str, verdict: str) -> dict[str, Any]:
        """Write a vote down; it is told as a record. ValueError where the two cannot be compared."""
        if not (first.state is second.state is State.COMPLETED):
            raise ValueError("both clips must be done")
        if _item(first) != _item(second) or shown_as(first) == shown_as(second):
            raise ValueError("they must be of one prompt and of different models")
        row = {"rater": rater, "item": _item(first), "dimension": dimension, "verdict": verdict}
        return self._write("gsb", votes, {**row, "first": shown_as(first), "second": shown_as(second)})

    def rate(self, rater: str, clip: Job, dimension: str, points: int) -> dict[str, Any]:
        """Write points for one clip down, 1 to 5; they are told as a record. ValueError where it cannot be judged."""
        if clip.state is not State.COMPLETED or "prompt" not in clip.request:
            raise ValueError("it must be done, and be of a prompt")
        row = {"rater": rater, "item": _item(clip), "dimension": dimension, "points": points}
        return self._write("likert", ratings, {**row, "model": shown_as(clip)})

    def records(self) -> list[dict[str, Any]]:
        """All of them as the evaluation reads them, votes ("gsb") before points ("likert"); oldest first."""
        with self.store.reader.begin() as connection:
            return [
                {"kind": kind, **{name: value for name, value in row._mapping.items() if name not in ("id", "at")}}
                for kind, table in (("gsb", votes), ("likert", ratings))
                for row in connection.execute(sa.select(table).order_by(table.c.id))
            ]

    def _write(self, kind: str, table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
        with self.store.engine.begin() as connection:
            connection.execute(table.insert().values(**row, at=self.store.clock()))
        return {"kind": kind, **row}


def shown_as(job: Job) -> str:
    """What is compared: the name that its request gives for the arena, else the model with its adapter."""
    told = job.request.get("metadata", {}).get("arena")
    return str(told) if told else "+".join(str(job.facts[name]) for name in ("model", "lora") if job.facts.get(name))


def _item(job: Job) -> str:
    return str(job.request["prompt"])


def _pairs(done: Sequence[Job]) -> Iterator[tuple[Job, Job]]:
    """Two of one prompt; of each model the newest clip."""
    by_prompt: dict[str, dict[str, Job]] = {}
    for job in done:
        if "prompt" in job.request:
            by_prompt.setdefault(_item(job), {}).setdefault(shown_as(job), job)
    for by_model in by_prompt.values():
        yield from combinations(by_model.values(), 2)


def _key(item: str, first: str, second: str) -> tuple[str, str, str]:
    one, other = sorted((first, second))
    return item, one, other
