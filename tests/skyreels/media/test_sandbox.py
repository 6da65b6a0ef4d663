import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest

from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.sandbox import Sandbox

TARGETS = """
import ctypes, os, resource, sys, time
from skyreels.media.errors import MediaError

def echo(request, scratch):
    print("a library that prints to stdout")
    return request

def pid(request, scratch):
    return {"pid": os.getpid()}

def write(request, scratch):
    (scratch / "out.bin").write_bytes(bytes(request["size"]))
    return {"size": request["size"]}

def refuse(request, scratch):
    raise MediaError("too_many_pixels", "Scale it.", "9x9")

def fail(request, scratch):
    return {"value": {}["missing"]}

def unserialisable(request, scratch):
    return {"value": object()}

def sleep(request, scratch):
    time.sleep(60)

def spin(request, scratch):
    while True:
        pass

def hold_the_gil(request, scratch):
    ctypes.PyDLL(None).sleep(60)

def spin_in_c_with_the_gil(request, scratch):
    return {"bits": (7 ** (10 ** 9)).bit_length()}

def crash(request, scratch):
    ctypes.string_at(0)

def abort(request, scratch):
    os.abort()

def leave(request, scratch):
    sys.stderr.write("last words\\n")
    os._exit(3)

def eat(request, scratch):
    return {"size": len(bytearray(4 << 30))}

def garble(request, scratch):
    for fd in range(3, 64):
        try:
            os.write(fd, b"not json\\n")
        except OSError:
            pass
    time.sleep(1)
    return {}

def flood(request, scratch):
    for _ in range(20000):
        sys.stderr.write("noise " * 20 + "\\n")
    return {"done": True}

def surroundings(request, scratch):
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return {
        "files": [os.readlink(link) for link in links if os.path.exists(link)],
        "environment": dict(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "session": os.getsid(0),
        "stdin": sys.stdin.read(),
    }

def probe(request, scratch):
    from skyreels.media import probe
    return probe.probe(request["path"]).model_dump(mode="json")
"""


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    (folder / "sandbox_targets.py").write_text(TARGETS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def box(targets):
    limits = replace(MediaLimits(), memory_bytes=2**30, cpu_s=1.0, wall_s=300.0, max_file_bytes=2**20)
    with Sandbox(limits, preload=()) as sandbox:
        yield sandbox


def reason(box, target, scratch, **options):
    with pytest.raises(MediaError) as caught:
        box.call(f"sandbox_targets:{target}", {}, scratch=scratch, **options)
    return caught.value


def test_one_child_serves_many_calls_and_prints_do_no_harm(box, tmp_path):
    pids = {box.call("sandbox_targets:pid", {}, scratch=tmp_path)["pid"] for _ in range(3)}
    assert pids == {box.pid}
    assert os.getpid() not in pids
    request = {"text": "ü\n", "numbers": [1, 2.5, None], "long": "x" * 300_000}
    assert box.call("sandbox_targets:echo", request, scratch=tmp_path) == request


def test_a_call_costs_less_than_five_milliseconds(box, tmp_path):
    box.call("sandbox_targets:echo", {}, scratch=tmp_path)
    took = []
    for _ in range(50):
        started = time.perf_counter()
        box.call("sandbox_targets:echo", {}, scratch=tmp_path)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.005, "others may have waited for a core"


def test_files_come_back_through_the_scratch_folder(box, tmp_path):
    box.call("sandbox_targets:write", {"size": 1000}, scratch=tmp_path)
    assert (tmp_path / "out.bin").stat().st_size == 1000


def test_errors_come_back_as_they_were(box, tmp_path):
    error = reason(box, "refuse", tmp_path)
    assert (error.reason, error.remedy, error.detail) == ("too_many_pixels", "Scale it.", "9x9")
    error = reason(box, "fail", tmp_path)
    assert error.reason == "internal_error"
    assert "KeyError: 'missing'" in error.detail
    assert reason(box, "unserialisable", tmp_path).reason == "internal_error"
    assert reason(box, "no_such_function", tmp_path).reason == "internal_error"


@pytest.mark.parametrize(
    ("target", "expected", "options"),
    [
        ("sleep", "decode_timeout", {"wall_s": 0.3}),
        ("hold_the_gil", "decode_timeout", {"wall_s": 0.3}),
        ("spin_in_c_with_the_gil", "decode_timeout", {"wall_s": 0.3}),
        ("spin", "cpu_limit", {}),
        ("crash", "decoder_crashed", {}),
        ("abort", "decoder_crashed", {}),
        ("leave", "decoder_crashed", {}),
        ("eat", "memory_limit", {}),
        ("garble", "decoder_crashed", {}),
    ],
)
def test_whatever_a_child_does_only_that_call_is_lost(box, tmp_path, target, expected, options):
    before = box.call("sandbox_targets:pid", {}, scratch=tmp_path)["pid"]
    started = time.monotonic()
    error = reason(box, target, tmp_path, **options)
    assert error.reason == expected
    assert error.remedy
    assert time.monotonic() - started < 50, "a child that sleeps for a minute was waited for"
    assert not psutil.pid_exists(before)
    assert box.call("sandbox_targets:pid", {}, scratch=tmp_path)["pid"] != before


def test_a_crash_says_where(box, tmp_path):
    assert "in crash" in reason(box, "crash", tmp_path).detail
    error = reason(box, "leave", tmp_path)
    assert "exit status 3" in error.detail
    assert "last words" in error.detail


def test_a_child_killed_from_outside_is_replaced(box, tmp_path):
    before = box.call("sandbox_targets:pid", {}, scratch=tmp_path)["pid"]
    os.kill(before, signal.SIGKILL)
    while psutil.Process(before).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert box.call("sandbox_targets:pid", {}, scratch=tmp_path)["pid"] != before


def test_files_larger_than_the_limit_are_not_written(box, tmp_path):
    with pytest.raises(MediaError, match="internal_error"):
        box.call("sandbox_targets:write", {"size": 2**21}, scratch=tmp_path)
    assert (tmp_path / "out.bin").stat().st_size <= 2**20


def test_a_flood_on_stderr_blocks_nothing(box, tmp_path):
    assert box.call("sandbox_targets:flood", {}, scratch=tmp_path) == {"done": True}


def test_the_child_inherits_no_file_and_no_secret(targets, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with (tmp_path / "private.txt").open("w") as private, Sandbox() as box:
        os.set_inheritable(private.fileno(), True)
        around = box.call("sandbox_targets:surroundings", {}, scratch=tmp_path)
        assert around["session"] == box.pid
    assert not [name for name in around["files"] if "private" in name]
    assert "AWS_SECRET_ACCESS_KEY" not in around["environment"]
    assert around["core"] == 0
    assert around["stdin"] == ""


def test_the_child_is_renewed_after_its_calls_and_closed_with_the_sandbox(targets, tmp_path):
    box = Sandbox(preload=(), max_calls=2)
    pids = [box.call("sandbox_targets:pid", {}, scratch=tmp_path)["pid"] for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    box.call("sandbox_targets:pid", {}, scratch=tmp_path)
    last = box.pid
    box.close()
    assert not psutil.pid_exists(last)
    assert pickle.loads(pickle.dumps(box)).max_calls == 2  # noqa: S301  our own bytes


def test_the_child_dies_with_its_parent(targets, tmp_path):
    script = textwrap.dedent("""
        import sys, threading, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from skyreels.media.sandbox import Sandbox
        box = Sandbox()
        box.call("sandbox_targets:pid", {}, scratch=Path("."))
        print(box.pid, flush=True)
        box.call("sandbox_targets:sleep", {}, scratch=Path("."))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script, str(targets)], stdout=subprocess.PIPE, cwd=tmp_path)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=10)


def test_a_real_file_is_probed_in_the_child(box, studio, tmp_path):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(10)])
    found = box.call("sandbox_targets:probe", {"path": str(path)}, scratch=tmp_path)
    assert found["video"]["packets"] == 10
    assert json.dumps(found)
    (tmp_path / "b.mp4").write_text("#EXTM3U\n")
    with pytest.raises(MediaError, match="playlist_refused"):
        box.call("sandbox_targets:probe", {"path": str(tmp_path / "b.mp4")}, scratch=tmp_path)


def test_a_child_that_cannot_start_says_why(targets, tmp_path):
    with Sandbox(preload=("no_such_module",)) as box, pytest.raises(RuntimeError, match="no_such_module"):
        box.call("sandbox_targets:pid", {}, scratch=tmp_path)


def test_a_full_scratch_disk_is_named_as_such(box, small_disk):
    (small_disk / "other.bin").write_bytes(bytes(500_000))
    with pytest.raises(MediaError) as caught:
        box.call("sandbox_targets:write", {"size": 800_000}, scratch=small_disk)
    assert caught.value.reason == "disk_full"
