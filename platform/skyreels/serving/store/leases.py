"""Who works on which job: leases that run out, and fences that keep a late worker from writing.

A claim raises the job's fence by one. Whatever a worker writes names its fence, and is refused once somebody else has
claimed the job: of two workers that both believe to hold it, one commits.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from skyreels.serving.store.jobs import JobStore, add_files, end_job, files_of, job_of, record_event
from skyreels.serving.store.paces import learn
from skyreels.serving.store.records import OPEN, PREVIEW, Job, State, StoredFile
from skyreels.serving.store.schema import alike, files, jobs


class LeaseLost(Exception):
    """Somebody else has the job, or it is over: what was made of it is of no use."""


@dataclass(frozen=True)
class Lease:
    """The right to work on one stage of a job, proved by `fence`; `files` is what was committed before."""

    job: Job
    files: tuple[StoredFile, ...]

    @property
    def fence(self) -> int:
        return self.job.fence


@dataclass(frozen=True)
class Leases:
    """Claims for one `holder`, each good for `lease_s` after its last sign of life.

    A stage that has been claimed `max_attempts` times without an end is given up, and its job fails.
    """

    store: JobStore
    holder: str
    lease_s: float = 30.0
    max_attempts: int = 3

    def claim(self, stages: Collection[str]) -> Lease | None:
        """The oldest job that waits for one of `stages`, or whose worker has fallen silent; None where none does."""
        now = self.store.clock()
        free = jobs.c.state.in_(OPEN) & (jobs.c.lease_until <= now) & jobs.c.stage.in_(stages)
        oldest = sa.select(jobs.c.id).where(free).order_by(jobs.c.created_at, jobs.c.id).limit(1)
        while True:
            with self.store.reader.begin() as connection:  # most of the time there is none, and nobody need wait
                if connection.execute(oldest).first() is None:
                    return None
            with self.store.engine.begin() as connection:
                found = connection.execute(oldest.with_for_update(skip_locked=True)).first()
                if found is None:
                    return None
                job = job_of(connection, found.id)
                if not self._given_up(connection, job, now):
                    return self._claimed(connection, job, now)

    def join(self, lease: Lease, most: int) -> list[Lease]:
        """More jobs whose stage may be worked on together with that of `lease`, `most` in all with it, oldest first.

        None where one of them has been tried before: what ended a worker is to end no other job.
        """
        now = self.store.clock()
        with self.store.engine.begin() as connection:
            mine = (alike.c.job == lease.job.id) & (alike.c.stage == lease.job.stage)
            known = connection.execute(sa.select(alike.c.key, alike.c.most).where(mine)).one_or_none()
            more = 0 if known is None or lease.job.stage_attempts > 1 else min(most, known.most) - 1
            if known is None or more < 1:
                return []
            same = (alike.c.key == known.key) & (alike.c.stage == lease.job.stage) & (jobs.c.stage == alike.c.stage)
            free = jobs.c.state.in_(OPEN) & (jobs.c.lease_until <= now) & (jobs.c.stage_attempts == 0)
            query = sa.select(jobs.c.id).join(alike, alike.c.job == jobs.c.id)
            query = query.where(same, free, sa.not_(jobs.c.cancel_asked), jobs.c.id != lease.job.id)
            query = query.order_by(jobs.c.created_at, jobs.c.id).limit(more)
            found = connection.execute(query.with_for_update(skip_locked=True, of=jobs)).scalars().all()
            return [self._claimed(connection, job_of(connection, identifier), now) for identifier in found]

    def beat(self, lease: Lease, progress: float | None = None) -> bool:
        """A sign of life, with how much of the stage is done (0 to 1); True where the job is to be cancelled.

        Raises LeaseLost.
        """
        now = self.store.clock()
        with self.store.engine.begin() as connection:
            job = self._held(connection, lease)
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(lease_until=now + self.lease_s))
            if progress is not None and (percent := _percent(job, progress)) > job.progress:
                connection.execute(jobs.update().where(jobs.c.id == job.id).values(progress=percent))
                record_event(connection, job.id, now)
            return job.cancel_asked

    def cancel_asked(self, lease: Lease) -> bool:
        """As `beat` tells, without a sign of life: nothing is written. Raises LeaseLost."""
        mine = (jobs.c.id == lease.job.id) & (jobs.c.fence == lease.fence) & (jobs.c.state == State.RUNNING)
        with self.store.reader.begin() as connection:
            asked = connection.execute(sa.select(jobs.c.cancel_asked).where(mine)).scalar_one_or_none()
        if asked is None:
            raise self._lost(lease)
        return bool(asked)

    def show(self, lease: Lease, picture: StoredFile) -> None:
        """How the job stands is seen in this picture, no more in the one before. Raises LeaseLost."""
        with self.store.engine.begin() as connection:
            job = self._held(connection, lease)
            connection.execute(files.delete().where(files.c.job == job.id, files.c.stage == PREVIEW))
            add_files(connection, job.id, [picture])
            record_event(connection, job.id, self.store.clock())

    def commit(
        self, lease: Lease, made: Sequence[StoredFile], facts: Mapping[str, Any], seconds: float, shared: int = 1
    ) -> Job:
        """The stage is done: its files and facts become true, and the job goes on or is completed. Raises LeaseLost.

        `shared` is how many jobs were worked on together in `seconds`.
        """
        now = self.store.clock()
        with self.store.engine.begin() as connection:
            job = self._held(connection, lease)
            add_files(connection, job.id, made)
            learn(connection, job.id, job.stage, seconds / shared)
            told: dict[str, Any] = {
                "facts": {**job.facts, **facts},
                "timings": {**job.timings, job.stage: round(seconds, 3)},
            }
            place = job.stages.index(job.stage) + 1
            if job.cancel_asked:
                end_job(connection, job, State.CANCELLED, now, _CANCELLED, **told)
            elif place == len(job.stages):
                expires = now + self.store.keep_s
                end_job(connection, job, State.COMPLETED, now, progress=100, expires_at=expires, **told)
            else:
                waiting = {"state": State.QUEUED, "stage": job.stages[place], "stage_attempts": 0, **_FREE}
                percent = max(job.progress, _percent(job, 1.0))
                connection.execute(jobs.update().where(jobs.c.id == job.id).values(**told, **waiting, progress=percent))
                record_event(connection, job.id, now)
            return job_of(connection, job.id)

    def fail(self, lease: Lease, code: str, message: str) -> None:
        """The job cannot be done, and another attempt would not help. Raises LeaseLost."""
        with self.store.engine.begin() as connection:
            end_job(connection, self._held(connection, lease), State.FAILED, self.store.clock(), (code, message))

    def cancelled(self, lease: Lease) -> None:
        """The work has stopped because it was asked to. Raises LeaseLost."""
        with self.store.engine.begin() as connection:
            end_job(connection, self._held(connection, lease), State.CANCELLED, self.store.clock(), _CANCELLED)

    def attempt_failed(self, lease: Lease, message: str) -> Job:
        """Give the job back for another attempt, or up where that was the last one. Raises LeaseLost."""
        now = self.store.clock()
        with self.store.engine.begin() as connection:
            job = self._held(connection, lease)
            values = {"state": State.QUEUED, "error_message": message, **_FREE}
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(**values))
            if not self._given_up(connection, job_of(connection, job.id), now):
                record_event(connection, job.id, now)
            return job_of(connection, job.id)

    def give_back(self, lease: Lease) -> None:
        """The worker goes; the attempt does not count. Raises LeaseLost."""
        with self.store.engine.begin() as connection:
            job = self._held(connection, lease)
            counts = {"attempts": job.attempts - 1, "stage_attempts": job.stage_attempts - 1}
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(state=State.QUEUED, **_FREE, **counts))
            record_event(connection, job.id, self.store.clock())

    def _claimed(self, connection: sa.Connection, job: Job, now: float) -> Lease:
        taken = {"state": State.RUNNING, "holder": self.holder, "lease_until": now + self.lease_s}
        counts = {"fence": job.fence + 1, "attempts": job.attempts + 1, "stage_attempts": job.stage_attempts + 1}
        timings = job.timings or {"queue": round(now - job.created_at, 3)}
        connection.execute(jobs.update().where(jobs.c.id == job.id).values(**taken, **counts, timings=dict(timings)))
        record_event(connection, job.id, now)
        return Lease(job_of(connection, job.id), tuple(files_of(connection, job.id)))

    def _given_up(self, connection: sa.Connection, job: Job, now: float) -> bool:
        if job.cancel_asked:
            end_job(connection, job, State.CANCELLED, now, _CANCELLED)
            return True
        if job.stage_attempts < self.max_attempts:
            return False
        why = job.error_message or "the process that worked on it ended each time"
        message = f"stage {job.stage!r} was tried {job.stage_attempts} times and given up: {why}"
        end_job(connection, job, State.FAILED, now, ("attempts_exhausted", message))
        return True

    def _held(self, connection: sa.Connection, lease: Lease) -> Job:
        """The job, if this lease still holds it; its row is locked till the end of the transaction."""
        mine = (jobs.c.id == lease.job.id) & (jobs.c.fence == lease.fence) & (jobs.c.state == State.RUNNING)
        found = connection.execute(sa.select(jobs.c.id).where(mine).with_for_update()).first()
        if found is None:
            raise self._lost(lease)
        return job_of(connection, found.id)

    def _lost(self, lease: Lease) -> LeaseLost:
        return LeaseLost(f"{lease.job.id}: the lease with fence {lease.fence} has been taken over or ended")


_FREE: dict[str, Any] = {"holder": None, "lease_until": 0.0}
_CANCELLED = ("cancelled", "the job was cancelled")


def _percent(job: Job, done: float) -> int:
    """Of the whole job, stages counted alike; 100 is for what is committed."""
    share = (job.stages.index(job.stage) + min(max(done, 0.0), 1.0)) / len(job.stages)
    return min(99, int(100 * share))
