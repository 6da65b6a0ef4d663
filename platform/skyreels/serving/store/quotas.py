"""How much one key may ask for: requests a minute, seconds of video a day, open jobs; and what all may together."""

import math
from dataclasses import dataclass

import sqlalchemy as sa

from skyreels.serving.errors import ServingError, invalid
from skyreels.serving.store.paces import mean_left
from skyreels.serving.store.records import OPEN
from skyreels.serving.store.schema import jobs, usage

_MINUTE_S, _DAY_S = 60.0, 86400.0
_WAIT_S = 10


@dataclass(frozen=True)
class Quotas:
    """None is no limit. `queue` holds for all owners together, everything else for each."""

    queue: int = 500
    queue_per_owner: int = 20
    requests_per_minute: int | None = None
    seconds_per_day: float | None = None

    def check(self, connection: sa.Connection, owner: str, now: float, seconds: float = 0.0, count: int = 1) -> None:
        """ServingError (429, with Retry-After) where `seconds` more video in `count` more jobs would be too much.

        400 where so many would be too much at any time.
        """
        if count > (most := min(self.queue, self.queue_per_owner, self.requests_per_minute or count)):
            raise invalid("n", f"at most {most} clips are taken at once here: ask for fewer, in several requests")
        self._check_queue(connection, owner, count)
        if self.requests_per_minute is not None:
            self._check_rate(connection, owner, now, self.requests_per_minute, count)
        if self.seconds_per_day is not None:
            self._check_day(connection, owner, now, seconds, self.seconds_per_day)

    def use(self, connection: sa.Connection, job: str, owner: str, now: float, seconds: float) -> None:
        """Count an accepted job; what is older than a day is forgotten."""
        connection.execute(usage.delete().where(usage.c.at < now - _DAY_S))
        connection.execute(usage.insert().values(job=job, owner=owner, at=now, seconds=seconds))

    def _check_queue(self, connection: sa.Connection, owner: str, more: int) -> None:
        mine = sa.case((jobs.c.owner == owner, 1), else_=0)
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(mine), 0)).where(jobs.c.state.in_(OPEN))
        everybody, own = connection.execute(query).one()
        if own + more <= self.queue_per_owner and everybody + more <= self.queue:
            return
        crowded = own + more > self.queue_per_owner
        held = f"you have {own}" if crowded else f"the service has {everybody}"
        message = f"{held} open jobs, and {more} more are too many: wait for one to end, or cancel one"
        raise _too_many("queue_full", message, mean_left(connection) or _WAIT_S)

    def _check_rate(self, connection: sa.Connection, owner: str, now: float, most: int, more: int) -> None:
        recent = (usage.c.owner == owner) & (usage.c.at > now - _MINUTE_S)
        times = connection.execute(sa.select(usage.c.at).where(recent).order_by(usage.c.at)).scalars().all()
        if (over := len(times) + more - most) > 0:
            message = f"{len(times)} videos were asked for within a minute, at most {most} are taken"
            raise _too_many("rate_limited", message, times[over - 1] + _MINUTE_S - now)

    def _check_day(self, connection: sa.Connection, owner: str, now: float, seconds: float, most: float) -> None:
        recent = (usage.c.owner == owner) & (usage.c.at > now - _DAY_S)
        rows = connection.execute(sa.select(usage.c.at, usage.c.seconds).where(recent).order_by(usage.c.at)).all()
        used = sum(row.seconds for row in rows)
        if used + seconds <= most:
            return
        free, over = now, used + seconds - most
        for row in rows:
            if over <= 0:
                break
            over, free = over - row.seconds, row.at + _DAY_S
        message = (
            f"{used:g} s of video were asked for within a day, {seconds:g} s more pass the {most:g} s that are taken"
        )
        raise _too_many("quota_exceeded", message, free - now)


def _too_many(code: str, message: str, wait_s: float) -> ServingError:
    return ServingError(429, code, message, headers={"Retry-After": str(max(1, math.ceil(min(wait_s, _DAY_S))))})
