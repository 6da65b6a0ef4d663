"""What the routes share: the store, the files, who may ask, and one thread in which requests are read."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from skyreels.serving.config import ServingConfig
from skyreels.serving.http.metrics import Metrics
from skyreels.serving.http.news import News
from skyreels.serving.http.video import event_object, video_object
from skyreels.serving.intake.accept import Intake
from skyreels.serving.servable import Servable
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.keys import ANYBODY, Caller, Keys, Scope
from skyreels.serving.store.records import Job

Value = TypeVar("Value")
_KEEP_ALIVE_S = 15.0


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
    return Service(store, artifacts, servable, intake, bool(Keys(store).names()), ready, accepted, config.rubric)


@dataclass
class Service:
    """`keyed` says whether an API key must come with a request; without, the address must be loopback."""

    store: JobStore
    artifacts: Artifacts
    servable: Servable
    intake: Intake
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

    async def caller(self, request: Request, scope: Scope) -> Caller:
        """Whose request it is. Raises ServingError."""
        if not self.keyed:
            return ANYBODY
        return await run_in_threadpool(self.keys.caller, request.headers.get("authorization"), scope)

    async def read(self, call: Callable[..., Value], *arguments: Any) -> Value:
        """Run a part of the intake in its thread: sandboxes end with the thread that started them."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call, *arguments)

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
