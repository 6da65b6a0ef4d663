"""Progress where output is a file: whole lines, few of them, and the last one is the end."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest

from skyreels.progress import Progress


def test_lines_without_carriage_returns_at_a_rate_that_does_not_grow_with_the_work(capsys):
    with Progress("cut", 10_000, "sources") as bar:
        for _ in range(10_000):
            bar.update(1, "12 clips")
    said = capsys.readouterr().err
    assert "\r" not in said
    first, last = said.splitlines()
    assert first.startswith("cut: 0/10000 sources [")
    assert last.startswith("cut: 10000/10000 sources [")
    assert last.endswith("12 clips]")


def test_long_work_is_heard_of_now_and_then(capsys):
    with Progress("cut", 30, "sources", every_s=0.1) as bar:
        for _ in range(30):
            time.sleep(0.01)
            bar.update()
    assert 2 < len(capsys.readouterr().err.splitlines()) < 10


def test_work_that_ends_early_says_how_far_it_came(capsys):
    with pytest.raises(RuntimeError), Progress("cut", 10, "sources") as bar:
        bar.update(3)
        raise RuntimeError
    assert capsys.readouterr().err.splitlines()[-1].startswith("cut: 3/10 sources")


def test_quiet_is_quiet(capsys):
    with Progress("cut", 10, "sources", quiet=True) as bar:
        bar.update(10)
        bar.say("hello")
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar():
    code = "from skyreels.progress import Progress\nwith Progress('cut', 5, 'sources') as b: b.update(5); b.say('so')"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    assert "\r" in said
    assert "5/5" in said
    assert "so" in said
