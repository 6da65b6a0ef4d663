"""One machine, one process: the ingress, the workers, and an orderly end."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from skyreels.config import ConfigError
from skyreels.serving import tracing
from skyreels.serving.config import ServingConfig
from skyreels.serving.dispatch.dispatcher import Dispatcher
from skyreels.serving.dispatch.housekeeping import Housekeeping
from skyreels.serving.http.app import build_app
from skyreels.serving.http.origins import is_loopback
from skyreels.serving.http.service import open_service
from skyreels.serving.servable import Servable
from skyreels.storage import require_writable


def build_server(servable: Servable, config: ServingConfig) -> FastAPI:
    """The ingress with its workers, which start and end with it. Raises ConfigError where it would be open to all."""
    require_writable(config.files, "--files")
    config.check()
    tracing.start("server")
    store, artifacts = config.open_store(), config.open_artifacts()
    dispatcher = Dispatcher(
        store, artifacts, servable, [servable.stages], config.lease_s, config.max_attempts, config.batch
    )
    housekeeping = Housekeeping.of(config, store, artifacts)
    service = open_service(
        servable, config, store, lambda: dispatcher.alive and housekeeping.alive, accepted=dispatcher.nudge
    )
    if not service.keyed and not is_loopback(config.host):
        store.close()
        raise ConfigError(
            f"there are no API keys, and {config.host} can be reached by others: make one (keys add), or "
            "serve on 127.0.0.1"
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        housekeeping.start()
        yield
        await run_in_threadpool(dispatcher.stop, config.grace_s)
        await run_in_threadpool(housekeeping.stop)
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
