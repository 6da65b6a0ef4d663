"""SIGTERM on a worker, or a request from the driver: finish the step, write a checkpoint, end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_requested = threading.Event()  # of this process: signals have no other way to the training thread


def catch_sigterm() -> None:
    forget_request()
    signal.signal(signal.SIGTERM, lambda *_: _requested.set())


def request_stop() -> None:
    """Ask this process to stop after its step."""
    _requested.set()


def forget_request() -> None:
    """Before another run in this process."""
    _requested.clear()


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _requested.is_set()


@contextmanager
def stopping_on_signals(request: Callable[[], object]) -> Iterator[None]:
    """SIGTERM and SIGINT make the request; a second SIGINT interrupts. Only a main thread can take signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        request()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
