"""What goes between the workers and the driver: events one way, the request to stop the other.

The driver owns the board, so a restart of the workers loses neither events nor the request, and whoever tracks a run
does so in one process that lives as long as the run.
"""

import asyncio
import threading
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from skyreels.training.events import Event
from skyreels.training.stop import request_stop


class Board:
    """An asynchronous Ray actor: `take` and `stop_requested` wait in it without holding anyone up."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self._stop = asyncio.Event()
        self._failure: str | None = None

    async def post(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()

    async def take(self, timeout_s: float) -> list[Event]:
        """All events since the last call, in order; waits up to `timeout_s` for the first."""
        if not self._events:
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                return []
        events, self._events = self._events, []
        self._arrived.clear()
        return events

    async def request_stop(self) -> None:
        self._stop.set()

    async def stop_requested(self, timeout_s: float) -> bool:
        """Whether the run is to end; waits up to `timeout_s` for the request."""
        try:
            await asyncio.wait_for(self._stop.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def fail(self, message: str) -> None:
        """Note an error that another attempt would meet again; the first one counts."""
        self._failure = self._failure or message

    async def failure(self) -> str | None:
        return self._failure


class RemoteBoard:
    """A board as a worker sees it. Implements `worker.Driver`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def post(self, event: Event) -> None:
        self._actor.post.remote(event)

    def flush(self) -> None:
        self.failure()  # calls of one process arrive in order

    def fail(self, message: str) -> None:
        ray.get(self._actor.fail.remote(message))

    def failure(self) -> str | None:
        found: str | None = ray.get(self._actor.failure.remote())
        return found

    def follow(self) -> None:
        """From a thread that ends with the board."""
        threading.Thread(target=self._wait_for_request, name="stop-request", daemon=True).start()

    def _wait_for_request(self) -> None:
        try:
            while not ray.get(self._actor.stop_requested.remote(60)):
                pass
        except RayActorError:
            return  # the run is over; its process may go on to the next
        request_stop()


def open_board() -> Any:
    """A board on this node, which a lost worker node does not take along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
