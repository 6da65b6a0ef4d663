"""Jobs in a database: accepted in one transaction, read by their owner, cancelled, expired.

Whoever works on a job goes through `leases`. Every method is one transaction and safe from any process.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from skyreels.serving.errors import ServingError, not_found
from skyreels.serving.store.paces import eta, expect, forget, medians
from skyreels.serving.store.quotas import Quotas
from skyreels.serving.store.records import OPEN, Event, Job, Load, NewJob, Page, Standing, State, StoredFile
from skyreels.serving.store.schema import (
    alike,
    events,
    files,
    idempotency,
    jobs,
    one_at_a_time,
    open_database,
    outbox,
    reading,
    uploads,
)

_IDEMPOTENCY_S = 24 * 3600.0
_APART_S = 1e-6  # of jobs that are made at once: they wait in their order


class JobStore:
    """`url` as SQLAlchemy takes it; `clock` gives Unix seconds. Results are kept for `keep_s`."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.time,
        quotas: Quotas | None = None,
        keep_s: float = 7 * 86400.0,
    ) -> None:
        self.engine = open_database(url)
        self.reader = reading(self.engine)
        self.clock = clock
        self.keep_s = keep_s
        self._quotas = quotas or Quotas()

    def accept(self, new: NewJob, *more: NewJob) -> Job:
        """Make jobs of one request, their files and its idempotency key true at once, or none of them; the first.

        The job of before where the key was used for the same request. ServingError where the key was used for another
        (422) or the owner's quotas are used up (429).
        """
        with self.engine.begin() as connection:
            one_at_a_time(connection)
            if (known := self._replayed(connection, new)) is not None:
                return known
            now, every = self.clock(), (new, *more)
            self._quotas.check(connection, new.owner, now, sum(job.seconds for job in every), len(every))
            for number, job in enumerate(every):
                _insert(connection, job, now + number * _APART_S)
                self._quotas.use(connection, job.id, job.owner, now, job.seconds)
            if new.idempotency_key is not None:
                key = {"owner": new.owner, "key": new.idempotency_key, "fingerprint": new.fingerprint}
                connection.execute(idempotency.insert().values(**key, job=new.id, created_at=now))
            return job_of(connection, new.id)

    def replayed(self, owner: str, key: str | None, fingerprint: str) -> Job | None:
        """The job that this key made before; ServingError where it was for another request."""
        with self.reader.begin() as connection:
            return self._replayed(connection, NewJob("", owner, {}, {}, (), (), key, fingerprint))

    def check_room(self, owner: str, seconds: float = 0.0, jobs: int = 1) -> None:
        """ServingError (429) where this owner's quotas, or everybody's, are used up."""
        with self.reader.begin() as connection:
            self._quotas.check(connection, owner, self.clock(), seconds, jobs)

    def eta(self, job: Job) -> float | None:
        """Seconds until the job is done, as far as is known."""
        with self.reader.begin() as connection:
            return eta(connection, job)

    def standing(self, owner: str, identifier: str) -> Standing:
        """All that is told of a job, as it is at one moment. ServingError (404) where this owner has no such job."""
        with self.reader.begin() as connection:
            return _standing(connection, self._owned(connection, owner, identifier))

    def standings(self, found: Sequence[Job]) -> list[Standing]:
        """The same of jobs that were read before."""
        with self.reader.begin() as connection:
            return [_standing(connection, job) for job in found]

    def job(self, owner: str, identifier: str) -> Job:
        """ServingError (404) where this owner has no such job."""
        with self.reader.begin() as connection:
            return self._owned(connection, owner, identifier)

    def page(self, owner: str, after: str | None = None, limit: int = 20, newest_first: bool = True) -> Page:
        """An owner's jobs by their time, from behind the job `after`."""
        place = sa.tuple_(jobs.c.created_at, jobs.c.id)
        with self.reader.begin() as connection:
            query = sa.select(jobs).where(jobs.c.owner == owner, sa.not_(jobs.c.hidden))
            if after is not None:
                start = self._owned(connection, owner, after)
                mark = sa.tuple_(sa.literal(start.created_at), sa.literal(start.id))
                query = query.where(place < mark if newest_first else place > mark)
            order = [column.desc() if newest_first else column.asc() for column in (jobs.c.created_at, jobs.c.id)]
            rows = connection.execute(query.order_by(*order).limit(limit + 1)).all()
        return Page([_job(row) for row in rows[:limit]], len(rows) > limit)

    def files(self, identifier: str) -> list[StoredFile]:
        """Of a job, what came with it and what was committed."""
        with self.reader.begin() as connection:
            return files_of(connection, identifier)

    def events(self, identifier: str, after: int = 0) -> list[Event]:
        """What happened to a job behind its event `after`, in order."""
        with self.reader.begin() as connection:
            return _events_of(connection, identifier, after)

    def news(self, owner: str, identifier: str, after: int) -> tuple[Job, list[Event]]:
        """A job and its events behind `after`, at one moment. ServingError (404) where this owner has no such job."""
        with self.reader.begin() as connection:
            job = self._owned(connection, owner, identifier)
            return job, _events_of(connection, identifier, after) if job.last_event > after else []

    def last_events(self, identifiers: Collection[str]) -> dict[str, int]:
        """Numbers of the newest events of many jobs; those that are gone are left out."""
        query = sa.select(jobs.c.id, jobs.c.last_event).where(jobs.c.id.in_(identifiers))
        with self.reader.begin() as connection:
            return {row.id: row.last_event for row in connection.execute(query)}

    def demand(self, stages: Collection[str]) -> tuple[int, int]:
        """How many jobs wait for one of `stages`, and how many are worked on in them."""
        now = self.clock()
        free = sa.case((jobs.c.lease_until <= now, 1), else_=0)
        here = jobs.c.state.in_(OPEN) & jobs.c.stage.in_(stages)
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(free), 0)).where(here)
        with self.reader.begin() as connection:
            every, waiting = connection.execute(query).one()
        return int(waiting), int(every - waiting)

    def load(self) -> Load:
        """What the stages have before them."""
        now = self.clock()
        query = sa.select(jobs.c.stage, jobs.c.lease_until, jobs.c.created_at).where(jobs.c.state.in_(OPEN))
        with self.reader.begin() as connection:
            rows = connection.execute(query).all()
            pace = medians(connection)
        idle = [row for row in rows if row.lease_until <= now]
        waiting = Counter(row.stage for row in idle)
        working = Counter(row.stage for row in rows)
        working.subtract(waiting)
        oldest = max((now - row.created_at for row in idle), default=0.0)
        stages = pace.keys() | working.keys()
        return Load({s: waiting[s] for s in stages}, {s: working[s] for s in stages}, pace, oldest)

    def release(self, holder: str) -> None:
        """The worker `holder` is gone: what it held may be claimed at once. Where it lives after all, fences hold."""
        with self.engine.begin() as connection:
            held = (jobs.c.holder == holder) & (jobs.c.state == State.RUNNING)
            connection.execute(jobs.update().where(held).values(lease_until=0.0))

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        with self.reader.begin() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def cancel(self, owner: str, identifier: str) -> Job:
        """Ask for the job's end: at once where nobody works on it, at the next step where somebody does."""
        with self.engine.begin() as connection:
            job = self._owned(connection, owner, identifier, locked=True)
            return self._cancelled(connection, job)

    def delete(self, owner: str, identifier: str) -> Job:
        """Hide the job from its owner and cancel it; its files go in the next sweep after its end."""
        with self.engine.begin() as connection:
            job = self._cancelled(connection, self._owned(connection, owner, identifier, locked=True))
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(hidden=True))
            return job

    def expire(self) -> list[str]:
        """Say of results whose time is over that they have expired; every over job whose files are to go.

        Files are removed after this, so that none that is told of is missing; `forget_files` ends it.
        """
        now = self.clock()
        with self.engine.begin() as connection:
            due = (jobs.c.state == State.COMPLETED) & (jobs.c.expires_at <= now)
            for (identifier,) in connection.execute(sa.select(jobs.c.id).where(due)).all():
                connection.execute(jobs.update().where(jobs.c.id == identifier).values(state=State.EXPIRED))
                record_event(connection, identifier, now)
            connection.execute(idempotency.delete().where(idempotency.c.created_at < now - _IDEMPOTENCY_S))
            fruitless = jobs.c.state.in_([State.FAILED, State.CANCELLED, State.EXPIRED])
            held = sa.select(files.c.job).where(files.c.job == jobs.c.id).exists()
            ended = (fruitless & held) | (jobs.c.hidden & sa.not_(jobs.c.state.in_(OPEN)))
            return list(connection.execute(sa.select(jobs.c.id).where(ended)).scalars())

    def forget_files(self, identifier: str) -> None:
        """The files of a job that is over are gone; a hidden job goes with them."""
        with self.engine.begin() as connection:
            connection.execute(files.delete().where(files.c.job == identifier))
            job = job_of(connection, identifier)
            if job.hidden and job.state.is_over:
                for table in (events, idempotency):
                    connection.execute(table.delete().where(table.c.job == identifier))
                connection.execute(jobs.delete().where(jobs.c.id == identifier))

    def known(self, identifiers: Sequence[str]) -> set[str]:
        """Those of them that are jobs or files."""
        with self.reader.begin() as connection:
            found = (sa.select(table.c.id).where(table.c.id.in_(identifiers)) for table in (jobs, uploads))
            return {identifier for query in found for identifier in connection.execute(query).scalars()}

    def check(self) -> None:
        """Raises where the database does not answer."""
        with self.reader.begin() as connection:
            connection.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one()

    def close(self) -> None:
        self.engine.dispose()

    def _owned(self, connection: sa.Connection, owner: str, identifier: str, locked: bool = False) -> Job:
        """`locked` till the end of the transaction, which is to change the job."""
        mine = (jobs.c.id == identifier) & (jobs.c.owner == owner) & sa.not_(jobs.c.hidden)
        query = sa.select(jobs).where(mine)
        row = connection.execute(query.with_for_update() if locked else query).one_or_none()
        if row is None:
            raise not_found(f"video {identifier[:64]!r}")
        return _job(row)

    def _cancelled(self, connection: sa.Connection, job: Job) -> Job:
        if job.state.is_over:
            return job
        now = self.clock()
        if job.state is State.QUEUED or job.lease_until <= now:
            end_job(connection, job, State.CANCELLED, now, ("cancelled", "the job was cancelled"))
        else:
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(cancel_asked=True))
        return job_of(connection, job.id)

    def _replayed(self, connection: sa.Connection, new: NewJob) -> Job | None:
        if new.idempotency_key is None:
            return None
        mine = (idempotency.c.owner == new.owner) & (idempotency.c.key == new.idempotency_key)
        row = connection.execute(sa.select(idempotency).where(mine)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != new.fingerprint:
            message = "this Idempotency-Key was used for another request: send a new key, or the same request"
            raise ServingError(422, "idempotency_mismatch", message)
        return job_of(connection, row.job)


def _insert(connection: sa.Connection, new: NewJob, now: float) -> None:
    """The rows of a job that waits for its first stage."""
    row: dict[str, Any] = {
        "id": new.id,
        "owner": new.owner,
        "state": State.QUEUED,
        "hidden": False,
        "request": dict(new.request),
        "facts": dict(new.facts),
        "stages": list(new.stages),
        "stage": new.stages[0],
        "progress": 0,
        "created_at": now,
        "timings": {},
        "fence": 0,
        "lease_until": 0.0,
        "attempts": 0,
        "stage_attempts": 0,
        "cancel_asked": False,
        "last_event": 0,
    }
    connection.execute(jobs.insert().values(row))
    add_files(connection, new.id, new.files)
    expect(connection, new.id, new.work)
    for stage, (company, most) in new.together.items():
        connection.execute(alike.insert().values(job=new.id, stage=stage, key=company, most=most))
    record_event(connection, new.id, now)


def job_of(connection: sa.Connection, identifier: str) -> Job:
    """The row as it stands in this transaction."""
    return _job(connection.execute(sa.select(jobs).where(jobs.c.id == identifier)).one())


def files_of(connection: sa.Connection, identifier: str) -> list[StoredFile]:
    query = sa.select(files).where(files.c.job == identifier).order_by(files.c.stage, files.c.name)
    rows = connection.execute(query).all()
    return [StoredFile(row.stage, row.name, row.place, row.bytes, row.sha256) for row in rows]


def _standing(connection: sa.Connection, job: Job) -> Standing:
    files = files_of(connection, job.id)
    if job.state.is_over:
        return Standing(job, files)
    earlier = jobs.c.state.in_(OPEN) & (jobs.c.created_at < job.created_at)
    ahead = connection.execute(sa.select(sa.func.count()).where(earlier)).scalar_one()
    return Standing(job, files, int(ahead), eta(connection, job))


def _events_of(connection: sa.Connection, identifier: str, after: int) -> list[Event]:
    query = sa.select(events).where(events.c.job == identifier, events.c.number > after).order_by(events.c.number)
    rows = connection.execute(query).all()
    return [Event(row.number, row.at, row.state, row.stage, row.progress) for row in rows]


def add_files(connection: sa.Connection, identifier: str, added: Sequence[StoredFile]) -> None:
    for file in added:
        values = {"stage": file.stage, "name": file.name, "place": file.place, "bytes": file.bytes}
        connection.execute(files.insert().values(job=identifier, sha256=file.sha256, **values))


def record_event(connection: sa.Connection, identifier: str, now: float) -> None:
    """Number what the job's row says now as its next event."""
    connection.execute(jobs.update().where(jobs.c.id == identifier).values(last_event=jobs.c.last_event + 1))
    job = job_of(connection, identifier)
    told = {"state": job.state, "stage": job.stage, "progress": job.progress}
    connection.execute(events.insert().values(job=identifier, number=job.last_event, at=now, **told))


def end_job(
    connection: sa.Connection, job: Job, state: State, now: float, error: tuple[str, str] | None = None, **values: Any
) -> None:
    """Put the job into a state that it does not leave by itself, with its last event and what is to be told of it."""
    code, message = error or (None, None)
    ended = {"state": state, "completed_at": now, "error_code": code, "error_message": message}
    free = {"holder": None, "lease_until": 0.0}
    forget(connection, job.id)
    connection.execute(alike.delete().where(alike.c.job == job.id))
    connection.execute(jobs.update().where(jobs.c.id == job.id).values(**ended, **free, **values))
    record_event(connection, job.id, now)
    if (url := job.request.get("webhook_url")) is not None:
        event = "video.completed" if state is State.COMPLETED else "video.failed"
        row = {"id": f"evt_{job.id}_{state}", "job": job.id, "event": event, "url": url}
        connection.execute(outbox.insert().values(**row, created_at=now, next_at=now, tries=0))


def _job(row: sa.Row[Any]) -> Job:
    return Job(**{**row._mapping, "stages": tuple(row.stages)})
