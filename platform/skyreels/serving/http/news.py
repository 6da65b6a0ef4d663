"""Who waits for news of a job is woken by one look at the store for all: streams of progress cost no query each."""

import asyncio
import logging

import sqlalchemy as sa
from fastapi.concurrency import run_in_threadpool

from skyreels.serving.store.jobs import JobStore

logger = logging.getLogger(__name__)

_LOOK_S = 0.05
_AWAY_S = 1.0


class News:
    """Of one ingress, in its event loop; it looks while somebody waits."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waiting: dict[asyncio.Future[None], tuple[str, int]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def behind(self, job: str, number: int, timeout_s: float) -> bool:
        """Till the job has events behind `number`, or is gone; False where it had none in time."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[woken] = (job, number)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            await asyncio.wait_for(woken, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(woken, None)
        return True

    async def _look(self) -> None:
        while self._waiting:
            asked = {job for job, _ in self._waiting.values()}
            try:
                newest = await run_in_threadpool(self._store.last_events, asked)
            except sa.exc.SQLAlchemyError:  # streams stay open, and go on when it is back
                logger.exception("the job store does not answer")
                await asyncio.sleep(_AWAY_S)
                continue
            for woken, (job, number) in list(self._waiting.items()):
                gone = job in asked and job not in newest
                if not woken.done() and (gone or newest.get(job, 0) > number):
                    woken.set_result(None)
            await asyncio.sleep(_LOOK_S)
