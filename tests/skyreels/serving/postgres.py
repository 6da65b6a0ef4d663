"""A real PostgreSQL, Debian's, on loopback, for one test run: its data lie in a folder that goes with it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534  # PostgreSQL refuses to run as root


def programs():
    """The newest installed version's, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres():
    """The URL of a server without its database's name."""
    as_nobody = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if as_nobody:
        os.chown(folder, NOBODY, NOBODY)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **as_nobody}
    words = [programs() / "initdb", "-D", folder / "data", "-U", "me", "--auth=trust", "--no-sync"]
    subprocess.run([*words, "--locale=C", "--encoding=UTF8"], **quiet)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [programs() / "postgres", "-D", folder / "data", "-k", folder, "-h", "127.0.0.1", "-p", str(port), "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, **as_nobody)
    try:
        ready = [programs() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"postgresql+psycopg://me@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
