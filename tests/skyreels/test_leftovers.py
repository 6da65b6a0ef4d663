"""Temporary files: those of the dead go, those that somebody works on stay."""

import os
import subprocess
import sys
import time

from skyreels import leftovers
from skyreels.leftovers import temporary_name

_DIES = "import os, sys; from pathlib import Path; from skyreels.leftovers import temporary_name\n"


def _left_by_a_kill(folder, stem="tmp"):
    """A file that a process was at when it died."""
    code = f"{_DIES}Path({str(folder)!r}, temporary_name({stem!r})).write_text('half'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    return next(path for path in folder.iterdir() if path.name.startswith(f".{stem}-"))


def test_what_a_killed_process_left_goes_and_what_a_live_one_works_on_stays(tmp_path):
    dead = _left_by_a_kill(tmp_path)
    mine = tmp_path / temporary_name()
    mine.write_text("half")
    assert leftovers.sweep(tmp_path) == [dead]
    assert leftovers.sweep(tmp_path, older_than_s=0) == []
    assert mine.read_text() == "half"


def test_of_another_machine_only_what_is_old_goes(tmp_path):
    young, old = tmp_path / ".tmp-0123abcd-1-ff", tmp_path / "deep" / ".tmp-0123abcd-1-fe"
    old.parent.mkdir()
    for path in (young, old):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert leftovers.sweep(tmp_path) == [old]
    assert leftovers.sweep(tmp_path, older_than_s=0) == [young]


def test_names_of_earlier_versions_go_by_age(tmp_path):
    path = tmp_path / ".tmp-0123456789abcdef0123456789abcdef"
    path.write_text("half")
    assert leftovers.sweep(tmp_path) == []
    os.utime(path, (time.time() - 90_000,) * 2)
    assert leftovers.sweep(tmp_path) == [path]


def test_folders_go_with_what_is_in_them_and_other_stems_stay(tmp_path):
    code = (
        f"{_DIES}folder = Path({str(tmp_path)!r}, temporary_name('export')); folder.mkdir()\n"
        "(folder / 'weights').write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    left = next(tmp_path.iterdir())
    assert leftovers.sweep(tmp_path, "tmp") == []
    assert leftovers.sweep(tmp_path, "export") == [left]
    assert not left.exists()


def test_scratch_space_of_the_dead_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (
        "import os; from skyreels.leftovers import scratch_folder\n"
        "with scratch_folder('part') as folder:\n    (folder / 'clip.mp4').write_bytes(b'film'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    with leftovers.scratch_folder("part") as mine:
        assert leftovers.sweep_scratch() == [left]
        assert mine.is_dir()
    assert list(tmp_path.iterdir()) == []
