"""The other end of `Sandbox`: run as `python -m skyreels.media.sandbox_child SETTINGS`."""

import ctypes
import errno
import faulthandler
import importlib
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from skyreels.media.errors import MediaError

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    settings = json.loads(sys.argv[1])
    _die_with_parent(settings["parent"])
    requests, replies = _private_pipes()
    faulthandler.enable()
    for module in settings["preload"]:
        importlib.import_module(module)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, settings["file_bytes"])
    _limit(resource.RLIMIT_AS, _virtual_bytes() + settings["memory_bytes"])
    _send(replies, b"{}")
    for line in requests:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + settings["cpu_s"]))
        _send(replies, _answer(json.loads(line)))


def _answer(message: dict[str, Any]) -> bytes:
    try:
        module, _, function = message["target"].partition(":")
        target = getattr(importlib.import_module(module), function)
        return json.dumps({"result": target(message["request"], Path(message["scratch"]))}).encode()
    except MediaError as error:
        return _refusal(error.reason, error.remedy, error.detail)
    except MemoryError:
        return _refusal("memory_limit", "Send a smaller file, or raise memory_bytes.", traceback.format_exc())
    except Exception as error:  # noqa: BLE001  the parent decides what becomes of it, with the traceback in hand
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return _refusal("disk_full", "Make room where temporary files go (TMPDIR).", str(error))
        return _refusal("internal_error", "Report this as a defect, with the detail.", traceback.format_exc())


def _refusal(reason: str, remedy: str, detail: str) -> bytes:
    return json.dumps({"reason": reason, "remedy": remedy, "detail": detail}).encode()


def _send(replies: BinaryIO, reply: bytes) -> None:
    replies.write(reply + b"\n")
    replies.flush()


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The protocol's pipes on fresh descriptors; what libraries print goes to stderr, and stdin is empty."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _die_with_parent(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was asked for
        sys.exit(1)


def _limit(what: int, value: int) -> None:
    """Lower the soft limit, where the administrator's hard limit is not lower still."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
