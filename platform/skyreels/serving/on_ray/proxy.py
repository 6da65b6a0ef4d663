"""Serve with a proxy that listens: on a busy machine the first one may be gone before it is ready."""

import os
import time

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.context import _get_global_client
from ray.serve.schema import ProxyStatus

READY_VARIABLE = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"
READY_S = 60
"""How long Serve's controller waits for a proxy before it replaces it. Its own 5 s are too few for a busy machine."""
_START_S = 300.0


class NoProxy(ConnectionError):
    """Serve runs, and nothing listens at its address."""


def start_serve(host: str, port: int, within_s: float = _START_S) -> None:
    """Serve on the cluster that is connected, with a proxy that listens; one that runs there already is used.

    A proxy that is replaced while it starts is waited for. Raises NoProxy with what to do, and then leaves no Serve
    that it started: the address of a Serve that runs cannot be changed, so it has to be the one that is asked for.
    """
    deadline = time.monotonic() + within_s
    ours = not serve.status().proxies
    if not ours:
        _check_address(host, port)
    try:
        trouble = _start(host, port)
        while not _listens():
            if time.monotonic() > deadline:
                raise NoProxy(_told(host, port, f"not ready after {within_s:.0f} s ({trouble})"))
            time.sleep(0.2)
    except NoProxy:
        if ours:
            serve.shutdown()
        raise


def _start(host: str, port: int) -> str:
    """What became of the first proxy. Raises NoProxy where it says itself that it cannot listen."""
    variables = {READY_VARIABLE: os.environ.get(READY_VARIABLE, str(READY_S))}
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": port},
            controller_options={"runtime_env": {"env_vars": variables}},
        )
    except (RayActorError, TimeoutError) as error:  # the controller lives, and starts another one
        return str(error).strip().splitlines()[0]
    except RayTaskError as error:
        raise NoProxy(_told(host, port, str(error.cause))) from error
    return "it was ready, and is not any more"


def _check_address(host: str, port: int) -> None:
    runs = _get_global_client().http_config  # no public call tells it
    if (runs.host, runs.port) != (host, port):
        raise NoProxy(
            f"Serve runs on this cluster already and listens on {runs.host}:{runs.port}, not on {host}:{port}: serve "
            f"there (--host {runs.host} --port {runs.port}), or end it first (`serve shutdown -y`)"
        )


def _listens() -> bool:
    return ProxyStatus.HEALTHY in serve.status().proxies.values()


def _told(host: str, port: int, what: str) -> str:
    return (
        f"Serve's proxy does not listen on {host}:{port}: {what}; choose a port that no other program has, or wait "
        "until the machine is less busy, and run the same command again (after `serve shutdown -y` where a Serve that "
        "was started otherwise runs on the cluster). serve/proxy_*.log among the cluster's logs says more"
    )
