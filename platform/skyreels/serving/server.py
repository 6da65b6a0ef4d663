"""One machine, one process: the ingress, the workers, and an orderly end."""

import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from skyreels.config import ConfigError
from skyreels.serving.app import build_app
from skyreels.serving.artifacts import Artifacts
from skyreels.serving.dispatcher import Dispatcher
from skyreels.serving.intake import Intake
from skyreels.serving.keys import Keys
from skyreels.serving.media_check import UploadLimits
from skyreels.serving.origins import is_loopback
from skyreels.serving.servable import Servable
from skyreels.serving.service import Service
from skyreels.serving.store import JobStore
from skyreels.serving.webhooks import Webhooks
from skyreels.storage import Storage, require_writable


@dataclass(frozen=True)
class ServingConfig:
    """`pools` are groups of stages, a thread each; at the end what runs has `grace_s` to be done."""

    files: str
    database: str = ""
    """An SQLAlchemy URL; "" is SQLite beside local files."""
    host: str = "127.0.0.1"
    port: int = 8000
    pools: Sequence[Sequence[str]] = ()
    lease_s: float = 30.0
    max_attempts: int = 3
    grace_s: float = 600.0
    queue: int = 500
    queue_per_owner: int = 20
    keep_s: float = 7 * 86400.0
    webhooks: tuple[str, ...] = ()
    """What a webhook's URL may begin with; each ends a host with a slash. None: webhooks are refused."""
    webhook_secret: str = ""
    limits: UploadLimits = field(default_factory=UploadLimits)

    def check(self) -> None:
        """ConfigError where what webhooks may call is left open, or cannot be signed."""
        for prefix in self.webhooks:
            if not re.fullmatch(r"https?://[^/@\\?#]+/[^?#]*", prefix):
                raise ConfigError(
                    f"{prefix!r} must be a URL whose host ends with a slash, such as https://example.com/"
                )
        if self.webhooks and not self.webhook_secret:
            raise ConfigError("webhooks are allowed, and there is no secret to sign them with")

    def open_store(self) -> JobStore:
        """The job store that this configuration names."""
        if not self.database and not Storage(self.files).is_local:
            raise ConfigError(f"files are at {self.files}: say which database the jobs are in, as an SQLAlchemy URL")
        if not self.database:
            Path(self.files).mkdir(parents=True, exist_ok=True)
        url = self.database or f"sqlite:///{Path(self.files).resolve() / 'jobs.db'}"
        return JobStore(url, queue=self.queue, queue_per_owner=self.queue_per_owner, keep_s=self.keep_s)


def build_server(servable: Servable, config: ServingConfig) -> FastAPI:
    """The ingress with its workers, which start and end with it. Raises ConfigError where it would be open to all."""
    require_writable(config.files, "--files")
    config.check()
    store = config.open_store()
    artifacts = Artifacts(Storage(config.files).sub("videos"))
    intake = Intake(store, artifacts, servable, config.limits, config.webhooks)
    told = Webhooks(store, config.webhook_secret) if config.webhooks else None
    pools = config.pools or [list(servable.stages)]
    dispatcher = Dispatcher(store, artifacts, servable, pools, config.lease_s, config.max_attempts, told)
    service = Service(store, artifacts, servable, intake, bool(Keys(store).names()), lambda: dispatcher.alive)
    if not service.keyed and not is_loopback(config.host):
        store.close()
        raise ConfigError(
            f"there are no API keys, and {config.host} can be reached by others: make one (keys add), or "
            "serve on 127.0.0.1"
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        yield
        await run_in_threadpool(dispatcher.stop, config.grace_s)
        service.close()
        store.close()

    app = build_app(service, lifespan)
    app.state.keyed = service.keyed
    return app


def serve(servable: Servable, config: ServingConfig, started: Callable[[str, bool], None]) -> None:
    """Serve until SIGINT or SIGTERM, and then until what runs is done or `grace_s` is over.

    `started` is told the address and whether keys are asked for. OSError where the port is taken.
    """
    app = build_server(servable, config)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.create_server((config.host, config.port), family=family) as listening:
        port = listening.getsockname()[1]
        name = f"[{config.host}]" if family == socket.AF_INET6 else config.host
        started(f"http://{name}:{port}", app.state.keyed)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)).run([listening])
