"""A child process that takes the risk of decoding: it can hang, crash or eat memory, and only it is lost.

Requests and replies are JSON lines over pipes, never pickle: after a hostile file the child is not to be trusted.
What is large (pictures, sound) goes through files in a scratch folder.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from skyreels.media.errors import MediaError
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits

PRELOAD = ("skyreels.media.cut", "skyreels.media.image", "skyreels.media.probe")

_CHILD = "skyreels.media.sandbox_child"
_START_WALL_S = 120.0
_MAX_REPLY_BYTES = 64 * 2**20
_KEPT_STDERR_BYTES = 8192
# The child sees no credentials: only what an interpreter needs to start.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "PYTHON")

_SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Pictures come and go: given back to the kernel after each, their pages cost a fifth of the time of a small one.
_SETTINGS |= {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}


class Sandbox:
    """One child interpreter, started at the first call, used again for the next, replaced when it fails.

    `preload` names modules it imports before its memory is counted; `limits` bounds what one call may use. The child
    is replaced after `max_calls` too, so that leaks in codecs stay small. Calls from several threads wait for each
    other; the kernel ends the child with the thread that made the first call. Pickles as one not started yet.
    """

    def __init__(
        self, limits: MediaLimits = DEFAULT_LIMITS, preload: Sequence[str] = PRELOAD, max_calls: int = 1000
    ) -> None:
        self.limits = limits
        self.preload = tuple(preload)
        self.max_calls = max_calls
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def call(
        self, target: str, request: dict[str, Any], *, wall_s: float | None = None, scratch: Path
    ) -> dict[str, Any]:
        """What `target` ("package.module:function") returns for (request, scratch), run in the child.

        The function takes a JSON dict and the folder it may write to, and returns a JSON dict. A `MediaError` it raises
        comes back as it was, a full disk as `disk_full`, anything else as `internal_error` with the traceback as its
        detail. The child's own end comes back as `decode_timeout` (after `wall_s`, default that of the limits),
        `cpu_limit`, `child_killed` (from outside: by the kernel for want of memory, or by somebody) or
        `decoder_crashed`.
        """
        wall_s = self.limits.wall_s if wall_s is None else wall_s
        message = json.dumps({"target": target, "request": request, "scratch": str(scratch)}).encode() + b"\n"
        with self._lock:
            child = self._ready_child()
            reply = child.exchange(message, wall_s)
            child.calls += 1
            if child.calls >= self.max_calls or reply.get("reason") == "memory_limit":
                self._end()
        if "reason" in reply:
            raise MediaError(reply["reason"], reply["remedy"], reply["detail"])
        result: dict[str, Any] = reply["result"]
        return result

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        with self._lock:
            self._end()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["Sandbox"], tuple[MediaLimits, tuple[str, ...], int]]:
        return Sandbox, (self.limits, self.preload, self.max_calls)

    def _ready_child(self) -> "_Child":
        if self._child is not None and self._child.process.poll() is not None:
            self._end()
        if self._child is None:
            child = _Child(self.limits, self.preload)
            ready = child.exchange(b"", _START_WALL_S)
            if "reason" in ready:
                raise RuntimeError(f"the decoding child did not start: {ready['detail'] or ready['reason']}")
            weakref.finalize(self, child.kill)
            self._child = child
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """The process and its pipes."""

    def __init__(self, limits: MediaLimits, preload: tuple[str, ...]) -> None:
        settings = {
            "parent": os.getpid(),
            "preload": preload,
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "file_bytes": limits.max_file_bytes,
        }
        self.calls = 0
        self.limits = limits
        self.stderr = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", _CHILD, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_child_environment(),
            start_new_session=True,
        )

    def exchange(self, message: bytes, wall_s: float) -> dict[str, Any]:
        """Send one line and wait for one; a child that does not answer is killed and its end is the reply."""
        assert self.process.stdin is not None
        self.stderr = b""
        deadline = time.monotonic() + wall_s
        with suppress(BrokenPipeError):  # it has died: reading finds the end of its output and says how
            left = memoryview(message)
            while left:
                left = left[os.write(self.process.stdin.fileno(), left) :]
        line, timed_out = self._read_line(deadline)
        reply = None if line is None else _parsed(line)
        if reply is not None:
            return reply
        returncode = None if timed_out or line is not None else self._wait_end(deadline)
        self.kill()
        return self._obituary(returncode, wall_s if timed_out else None)

    def kill(self) -> None:
        """End the child and everything it started, and close the pipes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_line(self, deadline: float) -> tuple[bytes | None, bool]:
        """(the line, False), (None, False) at the end of output, or (None, True) when time is up."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while (left_s := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    chunk = os.read(key.fd, 65536)
                    if key.fileobj is self.process.stderr:
                        self.stderr = (self.stderr + chunk)[-_KEPT_STDERR_BYTES:]
                        if not chunk:
                            selector.unregister(self.process.stderr)
                        continue
                    received += chunk
                    if received.endswith(b"\n"):
                        return bytes(received), False
                    if not chunk or len(received) > _MAX_REPLY_BYTES:
                        return None, False
        return None, True

    def _wait_end(self, deadline: float) -> int | None:
        try:
            returncode = self.process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self._read_last_words()
        return returncode

    def _read_last_words(self) -> None:
        """What the dead child left in its stderr."""
        assert self.process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while selector.select(0) and (chunk := os.read(self.process.stderr.fileno(), 65536)):
                self.stderr = (self.stderr + chunk)[-_KEPT_STDERR_BYTES:]

    def _obituary(self, returncode: int | None, timeout_s: float | None) -> dict[str, str]:
        last_words = self.stderr.decode(errors="replace").strip()[-2000:]
        if timeout_s is not None:
            return _refusal(
                "decode_timeout", "Send a shorter or simpler file, or raise wall_s.", f"no answer in {timeout_s:g} s"
            )
        if returncode == -signal.SIGXCPU:
            return _refusal(
                "cpu_limit", "Send a shorter file, or raise cpu_s.", f"used {self.limits.cpu_s:g} s of processor time"
            )
        if returncode == -signal.SIGKILL:
            return _refusal(
                "child_killed", "Try again, with more memory or fewer at once.", "killed by the operating system"
            )
        how = "broke the protocol" if returncode is None else f"ended with {_ending(returncode)}"
        return _refusal("decoder_crashed", "Convert the file with another program.", f"{how}. {last_words}".strip())


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def _refusal(reason: str, remedy: str, detail: str) -> dict[str, str]:
    return {"reason": reason, "remedy": remedy, "detail": detail}


def _ending(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit status {returncode}"


def _child_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    search_path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return kept | _SETTINGS | {"PYTHONPATH": search_path}
