"""What is due at any time: results expire, files of what is over go, webhooks are told."""

import logging
import threading
import time
from dataclasses import dataclass, field

import sqlalchemy as sa

from skyreels.serving.config import ServingConfig
from skyreels.serving.dispatch.webhooks import Webhooks
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.uploads import Uploads

logger = logging.getLogger(__name__)

_SWEEP_S = 30.0
_TELL_S = 0.5
_STRANGE_S = 3600.0  # a request's files come before its job


@dataclass
class Housekeeping:
    """Two threads; any number of these may run on one store."""

    store: JobStore
    artifacts: Artifacts
    webhooks: Webhooks | None = None
    _closing: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def of(cls, config: ServingConfig, store: JobStore, artifacts: Artifacts) -> "Housekeeping":
        """As the configuration says."""
        return cls(store, artifacts, Webhooks(store, config.webhook_secret) if config.webhooks else None)

    def start(self) -> None:
        """Begin; returns at once."""
        self._threads.append(threading.Thread(target=self._sweep, name="sweep", daemon=True))
        if self.webhooks is not None:
            told = threading.Thread(target=self._tell, args=(self.webhooks,), name="webhooks", daemon=True)
            self._threads.append(told)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End what is at work, and wait for it."""
        self._closing.set()
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether every thread is at work."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

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
    uploads = Uploads(store)
    for file in uploads.expired():
        artifacts.remove(file)
        uploads.forget(file)
