"""How long stages take here: predicted from the newest that were measured, by how much work each was.

A servable says how much work a stage is, in a unit of its own; what a unit takes is learned from what was committed.
"""

import statistics
from collections.abc import Mapping

import sqlalchemy as sa

from skyreels.serving.store.records import OPEN, Job, State
from skyreels.serving.store.schema import jobs, measured, work

_KEPT = 64
_NEAREST = 5
_ALIKE = 0.1
"""Of the work: where several are as near as that, none further off is asked, for not all of a stage grows with work."""


def expect(connection: sa.Connection, job: str, amounts: Mapping[str, float]) -> None:
    """Write down what a new job will take, by stage."""
    for stage, amount in amounts.items():
        row = {"job": job, "stage": stage, "amount": amount, "seconds": predicted(connection, stage, amount)}
        connection.execute(work.insert().values(**row))


def learn(connection: sa.Connection, job: str, stage: str, seconds: float) -> None:
    """A stage was done: what it took tells of the next ones, and of those that nothing was known of."""
    mine = (work.c.job == job) & (work.c.stage == stage)
    amount = connection.execute(sa.select(work.c.amount).where(mine)).scalar_one_or_none()
    connection.execute(work.delete().where(mine))
    if not amount:
        return
    connection.execute(measured.insert().values(stage=stage, amount=amount, seconds=seconds))
    newest = sa.select(measured.c.id).where(measured.c.stage == stage).order_by(measured.c.id.desc()).limit(_KEPT)
    connection.execute(measured.delete().where(measured.c.stage == stage, measured.c.id.not_in(newest)))
    unknown = (work.c.stage == stage) & work.c.seconds.is_(None)
    connection.execute(work.update().where(unknown).values(seconds=work.c.amount * (seconds / amount)))


def forget(connection: sa.Connection, job: str) -> None:
    """The job is over: nothing is expected of it."""
    connection.execute(work.delete().where(work.c.job == job))


def predicted(connection: sa.Connection, stage: str, amount: float) -> float | None:
    """Seconds, from the measured stages that were most alike, the newest of these; None where nothing was measured."""
    query = sa.select(measured.c.amount, measured.c.seconds).where(measured.c.stage == stage)
    newest = connection.execute(query.order_by(measured.c.id.desc())).all()
    rows = sorted(newest, key=lambda row: abs(row.amount - amount))
    alike = [row for row in rows if abs(row.amount - rows[0].amount) <= _ALIKE * amount]
    used = alike if len(alike) > 1 else rows  # one alone may have had a model to load
    found = [row.seconds * _scale(amount, row.amount) for row in used[:_NEAREST]]
    return statistics.median_low(found) if found else None


def eta(connection: sa.Connection, job: Job) -> float | None:
    """Seconds until the job is done: what is left of it, and of those ahead, shared by as many as work now.

    None where something of it was never measured.
    """
    own = _left(connection, job)
    at_work = sa.select(jobs).where(jobs.c.state == State.RUNNING)
    working = [Job(**{**row._mapping, "stages": tuple(row.stages)}) for row in connection.execute(at_work)]
    if job.state is State.RUNNING:
        return own
    waiting = (jobs.c.state == State.QUEUED) & (jobs.c.created_at < job.created_at)
    query = sa.select(sa.func.sum(work.c.seconds), sa.func.count(), sa.func.count(work.c.seconds))
    total, rows, known = connection.execute(query.join(jobs, jobs.c.id == work.c.job).where(waiting)).one()
    left = [_left(connection, other) for other in working if other.id != job.id]
    if own is None or rows != known or None in left:
        return None
    ahead = (total or 0.0) + sum(seconds for seconds in left if seconds is not None)
    return own + ahead / max(1, len(working))


def medians(connection: sa.Connection) -> dict[str, float]:
    """Seconds by stage."""
    by_stage: dict[str, list[float]] = {}
    for row in connection.execute(sa.select(measured.c.stage, measured.c.seconds)):
        by_stage.setdefault(row.stage, []).append(row.seconds)
    return {stage: statistics.median(seconds) for stage, seconds in by_stage.items()}


def mean_left(connection: sa.Connection) -> float | None:
    """Seconds that an open job has before it, on average."""
    query = sa.select(sa.func.sum(work.c.seconds), sa.func.count(sa.distinct(work.c.job)))
    open_work = query.join(jobs, jobs.c.id == work.c.job).where(jobs.c.state.in_(OPEN))
    total, count = connection.execute(open_work).one()
    return total / count if total and count else None


def _left(connection: sa.Connection, job: Job) -> float | None:
    """Of one job, less what of its stage is done."""
    rows = connection.execute(sa.select(work.c.stage, work.c.seconds).where(work.c.job == job.id)).all()
    if not rows or any(row.seconds is None for row in rows):
        return None
    done = job.progress / 100 * len(job.stages) - job.stages.index(job.stage)
    shares = {job.stage: 1 - min(max(done, 0.0), 1.0)} if job.state is State.RUNNING else {}
    return float(sum(row.seconds * shares.get(row.stage, 1.0) for row in rows))


def _scale(amount: float, other: float) -> float:
    return amount / other if other else 1.0
