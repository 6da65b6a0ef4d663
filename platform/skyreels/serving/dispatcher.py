"""Workers of one machine: threads that claim stages and run them, and a sweep of what is over.

Any number of these may run on one store, and any may be killed: leases see to the rest.
"""

import logging
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from skyreels.serving.artifacts import Artifacts
from skyreels.serving.leases import Leases
from skyreels.serving.servable import Servable
from skyreels.serving.store import JobStore
from skyreels.serving.webhooks import Webhooks
from skyreels.serving.work import work_on

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_SWEEP_S = 30.0
_TELL_S = 0.5
_STRANGE_S = 3600.0  # a request's files come before its job


@dataclass
class Dispatcher:
    """One thread for each group of `pools`, names of stages that share a device."""

    store: JobStore
    artifacts: Artifacts
    servable: Servable
    pools: Sequence[Sequence[str]]
    lease_s: float = 30.0
    max_attempts: int = 3
    webhooks: Webhooks | None = None
    holder: str = field(default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(4)}")
    _closing: threading.Event = field(default_factory=threading.Event)
    _leave: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin; returns at once."""
        for number, stages in enumerate(self.pools):
            leases = Leases(self.store, f"{self.holder}-{number}", self.lease_s, self.max_attempts)
            self._threads.append(threading.Thread(target=self._work, args=(leases, stages), name=f"worker-{number}"))
        self._threads.append(threading.Thread(target=self._sweep, name="sweep"))
        if self.webhooks is not None:
            self._threads.append(threading.Thread(target=self._tell, args=(self.webhooks,), name="webhooks"))
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> None:
        """Claim no more and wait until what runs is done; after `grace_s` it is given back at its next step."""
        self._closing.set()
        deadline = time.monotonic() + grace_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._leave.set()
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether every thread is at work."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def _work(self, leases: Leases, stages: Sequence[str]) -> None:
        while not self._closing.is_set():
            try:
                lease = leases.claim(stages)
                if lease is not None:
                    work_on(lease, leases, self.artifacts, self.servable, self._leave)
                    continue
            except sa.exc.SQLAlchemyError:  # the lease runs out, and the job is claimed again
                logger.exception("the job store does not answer")
                self._closing.wait(1.0)
            self._closing.wait(_POLL_S)

    def _sweep(self) -> None:
        strange: dict[str, float] = {}
        while True:
            try:
                sweep(self.store, self.artifacts)
                strange = self._remove_strange(strange)
            except (sa.exc.SQLAlchemyError, OSError):
                logger.exception("the sweep was cut short, and is made again")
            if self._closing.wait(_SWEEP_S):
                return

    def _tell(self, webhooks: Webhooks) -> None:
        while not self._closing.wait(_TELL_S):
            try:
                webhooks.deliver()
            except sa.exc.SQLAlchemyError:
                logger.exception("the job store does not answer; what is to be told stays there")
        webhooks.close()

    def _remove_strange(self, seen: dict[str, float]) -> dict[str, float]:
        """Files of requests that never became jobs; when each of those left was first seen."""
        here = self.artifacts.jobs()
        now, known = time.monotonic(), self.store.known(sorted(here))
        strange = {job: seen.get(job, now) for job in here - known}
        for job, since in strange.items():
            if now - since > _STRANGE_S:
                self.artifacts.remove(job)
        return strange


def sweep(store: JobStore, artifacts: Artifacts) -> None:
    """Expire what is due and remove the files of what is over; cut short anywhere, the next one goes on."""
    for job in store.expire():
        artifacts.remove(job)
        store.forget_files(job)
