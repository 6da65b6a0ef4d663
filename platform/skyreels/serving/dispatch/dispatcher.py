"""Workers of one process: threads that claim stages and run them.

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

from skyreels.serving.dispatch.work import work_on_next
from skyreels.serving.servable import Servable
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.leases import Leases

logger = logging.getLogger(__name__)

_POLL_S = 0.05


@dataclass
class Dispatcher:
    """One thread for each group of `pools`, names of stages that share a device."""

    store: JobStore
    artifacts: Artifacts
    servable: Servable
    pools: Sequence[Sequence[str]]
    lease_s: float = 30.0
    max_attempts: int = 3
    batch: int = 1
    """How many jobs of equal shape are worked on together."""
    holder: str = field(default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(4)}")
    _closing: threading.Event = field(default_factory=threading.Event)
    _nudged: threading.Event = field(default_factory=threading.Event)
    _leave: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin; returns at once."""
        for number, stages in enumerate(self.pools):
            leases = Leases(self.store, f"{self.holder}-{number}", self.lease_s, self.max_attempts)
            self._threads.append(threading.Thread(target=self._work, args=(leases, stages), name=f"worker-{number}"))
        for thread in self._threads:
            thread.start()

    def nudge(self) -> None:
        """There may be work: look now."""
        self._nudged.set()

    def stop(self, grace_s: float) -> None:
        """Claim no more and wait until what runs is done; after `grace_s` it is given back at its next step."""
        self._closing.set()
        self._nudged.set()
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
                if work_on_next(stages, leases, self.artifacts, self.servable, self._leave, self.batch):
                    continue
            except sa.exc.SQLAlchemyError:  # the lease runs out, and the job is claimed again
                logger.exception("the job store does not answer")
                self._closing.wait(1.0)
            self._nudged.wait(_POLL_S)
            self._nudged.clear()
