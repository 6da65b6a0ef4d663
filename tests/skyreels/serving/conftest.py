"""The service in this process: over ASGI, or on loopback for clients of its own."""

import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from skyreels.serving.config import ServingConfig
from skyreels.serving.server import build_server
from tests.skyreels.serving.clips import Clips


@contextmanager
def running(servable, config):
    """The base URL of a service on a free port of loopback; its end is the orderly one."""
    app = build_server(servable, config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{free.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def kept_files(tmp_path_factory):
    """Where the service of `address` keeps what it is given and makes."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def address(kept_files):
    """A service without keys, for all tests of a file."""
    config = ServingConfig(files=str(kept_files), grace_s=5, lease_s=5, queue_per_owner=500)
    with running(Clips(), config) as url:
        yield url


@pytest.fixture
def http(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def ended(http):
    """`ended(id)`: the job, once it is over."""

    def wait(identifier, headers=None):
        deadline = time.monotonic() + 120
        while (job := http.get(f"/v1/videos/{identifier}", headers=headers).json())["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        return job

    return wait
