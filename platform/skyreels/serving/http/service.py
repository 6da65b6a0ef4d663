"""What the routes share: the store, the files, who may ask, and one thread in which requests are read."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from skyreels.serving.config import ServingConfig
from skyreels.serving.errors import ServingError
from skyreels.serving.http.metrics import Metrics
from skyreels.serving.http.news import News
from skyreels.serving.http.video import event_object, video_object
from skyreels.serving.intake.accept import Intake
from skyreels.serving.intake.fetch import Fetcher, urls_in
from skyreels.serving.intake.uploads import Body
from skyreels.serving.servable import Servable
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.keys import ANYBODY, Caller, Keys, Scope
from skyreels.serving.store.records import Job

Value = TypeVar("Value")
_KEEP_ALIVE_S = 15.0
_FETCHES, _FETCHES_PER_OWNER = 16, 4


def open_service(
    servable: Servable,
    config: ServingConfig,
    store: JobStore,
    ready: Callable[[], bool],
    accepted: Callable[[], None] = lambda: None,
) -> "Service":
    """What the routes need, as the configuration says. `ready` tells whether there are workers; see `Service`."""
    artifacts = config.open_artifacts()
    intake = Intake(store, artifacts, servable, config.limits, config.webhooks)
    fetcher = Fetcher(config.media_urls, config.networks(), config.limits)
    keyed = bool(Keys(store).names())
    return Service(store, artifacts, servable, intake, fetcher, keyed, ready, accepted, config.rubric)


@dataclass
class Service:
    """`keyed` says whether an API key must come with a request; without, the address must be loopback."""

    store: JobStore
    artifacts: Artifacts
    servable: Servable
    intake: Intake
    fetcher: Fetcher
    keyed: bool
    ready: Callable[[], bool] = lambda: True
    accepted: Callable[[], None] = lambda: None
    """Called when there is a new job, so that whoever works in this process need not wait for the next look."""
    rubric: tuple[str, ...] = ("overall",)
    """What may be judged in the arena."""
    keys: Keys = field(init=False)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(self.store)
        self.metrics = Metrics(self.store)
        self._news = News(self.store)
        self._reading = ThreadPoolExecutor(1, "intake")
        self._fetching = ThreadPoolExecutor(_FETCHES, "fetch")
        self._fetches: Counter[str] = Counter()

    async def caller(self, request: Request, scope: Scope) -> Caller:
        """Whose request it is. Raises ServingError."""
        if not self.keyed:
            return ANYBODY
        return await run_in_threadpool(self.keys.caller, request.headers.get("authorization"), scope)

    async def read(self, call: Callable[..., Value], *arguments: Any) -> Value:
        """Run a part of the intake in its thread: sandboxes end with the thread that started them."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call, *arguments)

    async def fetched(self, owner: str, body: Body, folder: Path) -> Body:
        """The body with what its URLs hold. A server that is slow holds up its owner's requests, and nobody else's."""
        if not urls_in(body):
            return body
        await run_in_threadpool(self.store.check_room, owner)
        if self._fetches[owner] >= _FETCHES_PER_OWNER:
            message = f"{_FETCHES_PER_OWNER} of your requests wait for their URLs: send this one again after them"
            raise ServingError(429, "rate_limited", message, headers={"Retry-After": "5"})
        self._fetches[owner] += 1
        try:
            call = self.fetcher.fetch
            return await asyncio.get_running_loop().run_in_executor(self._fetching, call, body, folder)
        finally:
            self._fetches[owner] -= 1

    async def told(self, job: Job) -> dict[str, Any]:
        """The job as its owner sees it."""
        (standing,) = await run_in_threadpool(self.store.standings, [job])
        return video_object(standing)

    async def events(self, caller: Caller, identifier: str, after: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """Events of a job behind `after`, until its last; an empty one in between says that it still lives."""
        while True:
            job, found = await run_in_threadpool(self.store.news, caller.owner, identifier, after)
            for event in found:
                after = event.number
                yield event.number, event_object(job, event)
            if job.state.is_over and after >= job.last_event:
                return
            if not await self._news.behind(identifier, after, _KEEP_ALIVE_S):
                yield 0, {}

    def close(self) -> None:
        self._reading.submit(self.intake.close).result()
        self._reading.shutdown()
        self._fetching.shutdown()
