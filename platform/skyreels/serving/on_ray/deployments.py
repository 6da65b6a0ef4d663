"""What runs in replicas. None keeps anything that matters: jobs are in the store, files in the artifact store.

A worker claims what waits for its stages when it is called, and commits before it returns. So a call is a hint that
there is work: one too many finds nothing, and one that is lost is made again.
"""

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from skyreels.serving import tracing
from skyreels.serving.config import Pool, ServingConfig
from skyreels.serving.dispatch.housekeeping import Housekeeping
from skyreels.serving.dispatch.work import work_on_next
from skyreels.serving.http.app import build_app
from skyreels.serving.http.service import open_service
from skyreels.serving.on_ray.gang import Gang
from skyreels.serving.servable import Build
from skyreels.serving.store.leases import Leases

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_CALLS_PER_REPLICA = 2  # one at work and one in the queue, which is what the autoscaler sees


class Ingress:
    """The HTTP routes. Without keys it answers to peers on loopback alone, wherever Serve's proxy listens."""

    def __init__(self, build: Build, config: ServingConfig, dispatcher: Any) -> None:
        config.check()
        tracing.start("ingress")
        store = config.open_store()
        self._service = open_service(build(()), config, store, lambda: True)
        self._dispatcher = dispatcher

    def __serve_build_asgi_app__(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            self._service.close()
            self._service.store.close()

        return build_app(self._service, lifespan)


class Workers:
    """A replica of a pool: one stage at a time, of one job or of several that go together.

    Where the pool says so, it does a stage together with followers.
    """

    def __init__(self, build: Build, config: ServingConfig, pool: Pool) -> None:
        tracing.start("+".join(pool.stages))
        servable = build(pool.stages)
        self._config, self._stages = config, pool.stages
        self._store, self._artifacts = config.open_store(), config.open_artifacts()
        self._gang = Gang.start(build, pool, servable) if pool.ranks > 1 else None
        self._servable = self._gang or servable
        if self._gang is None:
            servable.load(pool.stages)

    def check_health(self) -> None:
        """Raises where a follower has ended; Serve then starts another replica."""
        if self._gang is not None:
            self._gang.check()

    async def work(self, holder: str) -> bool:
        """Claim the oldest job that waits, as `holder`, and do its stage; False where none waits."""
        leave = threading.Event()
        try:
            found = await asyncio.to_thread(self._work, holder, leave)
        except asyncio.CancelledError:
            leave.set()  # it is given back at its next step
            raise
        if self._gang is not None and self._gang.broken:
            os._exit(1)  # what was done is committed; Serve starts another replica
        return found

    def _work(self, holder: str, leave: threading.Event) -> bool:
        leases = Leases(self._store, holder, self._config.lease_s, self._config.max_attempts)
        return work_on_next(self._stages, leases, self._artifacts, self._servable, leave, self._config.batch)


class Dispatcher:
    """Calls workers for what waits. It may be killed, and two of them do no harm."""

    async def __init__(self, config: ServingConfig, workers: Mapping[str, Any]) -> None:  # type: ignore[misc]
        self._store = config.open_store()
        self._housekeeping = Housekeeping.of(config, self._store, config.open_artifacts())
        self._housekeeping.start()
        self._changed = asyncio.Event()
        loops = (self._push(config.pools[name], handle) for name, handle in workers.items())
        self._loops = [asyncio.create_task(loop) for loop in loops]

    def check_health(self) -> None:
        """Raises where a loop has ended; Serve then starts another dispatcher."""
        for loop in self._loops:
            if loop.done():
                raise RuntimeError("a loop of the dispatcher has ended") from loop.exception()
        if not self._housekeeping.alive:
            raise RuntimeError("housekeeping has ended")

    async def _push(self, pool: Pool, handle: Any) -> None:
        """As many calls in flight as jobs wait or are at work, up to what the pool's replicas can take."""
        calls: set[asyncio.Task[None]] = set()
        while True:
            try:
                waiting, working = await asyncio.to_thread(self._store.demand, pool.stages)
            except sa.exc.SQLAlchemyError:
                logger.exception("the job store does not answer")
                waiting, working = 0, len(calls)
            most = _CALLS_PER_REPLICA * pool.max_replicas - len(calls)
            queued = max(0, len(calls) - working)
            for _ in range(min(most, waiting - queued)):
                call = asyncio.create_task(self._call(handle))
                calls.add(call)
                call.add_done_callback(calls.discard)
            await self._pause()

    async def _pause(self) -> None:
        """Till a call has ended, whose job then waits for its next stage, or for a moment."""
        try:
            await asyncio.wait_for(self._changed.wait(), _POLL_S)
        except TimeoutError:
            return
        self._changed.clear()

    async def _call(self, handle: Any) -> None:
        holder = f"call-{secrets.token_hex(8)}"
        try:
            await handle.work.remote(holder)
        except (RayError, RayServeException) as error:
            logger.warning("a worker was lost; its job is free again: %s", str(error).strip().splitlines()[-1:])
            await asyncio.to_thread(self._store.release, holder)
        finally:
            self._changed.set()
