"""kill -9 at random points, many times, then one more run: the same keys and bytes as if nothing had happened."""

import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jobs import curate
from skyreels.commits import CommitLog, verify
from skyreels.storage import Storage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

JOB = Path(curate.__file__)
SETTINGS = ["extract.parts.max_sources=2", "captions.workers.clips_per_part=4", "shards.pack_bytes=400000"]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def undisturbed(small_world, ray_cluster, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("undisturbed"))
    assert curate.main(["--input", str(small_world), "--output", output, "--no-tracking", "--quiet", *SETTINGS]) == 0
    return _committed(output)


def test_the_driver_is_killed(small_world, ray_cluster, undisturbed, tmp_path):
    _disturbed(small_world, str(tmp_path / "out"), ray_cluster, _kill_driver, kills=8, seed=1)
    assert _committed(str(tmp_path / "out")) == undisturbed


def test_workers_and_decoders_are_killed(small_world, ray_cluster, undisturbed, tmp_path):
    _disturbed(small_world, str(tmp_path / "out"), ray_cluster, _kill_a_worker, kills=6, seed=2, files=2)
    assert _committed(str(tmp_path / "out")) == undisturbed


def test_the_driver_is_killed_while_writing_to_s3(small_world, ray_cluster, undisturbed, s3_root):
    _disturbed(small_world, f"{s3_root}/out", ray_cluster, _kill_driver, kills=5, seed=3)
    assert _committed(f"{s3_root}/out") == undisturbed


def _committed(output):
    """Every committed file with its keys and checksum, after checking that the bytes are what the commit says.

    Layers are left out: which clips are asked together depends on where a run was interrupted, and their answers
    are in the samples.
    """
    found = {}
    for name in ("pool", "datasets/default"):
        store = Storage(output).sub(name)
        for commit in CommitLog(store).all():
            assert verify(store, commit) == []
            for file in commit.files:
                if file.name.endswith(".tar"):
                    found[f"{name}/{file.name}"] = (file.sha256, file.keys)
    keys = [key for name, (_, keys) in found.items() if name.startswith("pool") for key in keys]
    assert len(keys) == len(set(keys)) > 0
    return found


def _disturbed(world, output, address, kill, kills, seed, files=6):
    """Run the job, killing something after a random number of up to `files` files, until it ends; and so again.

    Then let it finish. A run that goes on after a kill meets the next one.
    """
    rng, killed, job = random.Random(seed), 0, None
    for _ in range(kills):
        if job is None or job.poll() is not None:
            job = _start(world, output, address)
        _wait_for_files(job, output, more=rng.randint(1, files))
        time.sleep(rng.uniform(0, 0.4))
        killed += kill(job, rng)
    job.wait(PATIENCE_S)
    assert killed >= kills // 2, f"only {killed} of {kills} times something was at work that could be killed"
    last = _start(world, output, address)
    out, _ = last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0, out.decode()[-3000:]


def _start(world, output, address):
    command = [sys.executable, str(JOB), "--input", str(world), "--output", output, "--no-tracking", "--quiet"]
    env = os.environ | {"RAY_ADDRESS": address}
    return subprocess.Popen([*command, *SETTINGS], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _wait_for_files(job, output, more):
    """Until that many more files are published, or the job ends."""
    before = len(Storage(output).names())
    deadline = time.monotonic() + PATIENCE_S
    while job.poll() is None:
        began = time.monotonic()
        if len(Storage(output).names()) >= before + more:
            return
        assert began < deadline, "no progress"
        time.sleep(max(0.1, 10 * (time.monotonic() - began)))  # the server that lists is in this very process


def _kill_driver(job, rng):
    """Whether it was there to be killed."""
    alive = job.poll() is None
    job.kill()
    job.wait(PATIENCE_S)
    return alive


def _kill_a_worker(job, rng):
    """One of the Ray workers that run our stages, or a decoding child; the driver goes on or fails cleanly.

    Of this process alone, which has started both the cluster and the job: others on the machine have their own.
    """
    victims = [process for process in psutil.Process().children(recursive=True) if _is_ours(process)]
    if victims:
        with suppress(psutil.NoSuchProcess):
            rng.choice(victims).kill()
    return bool(victims)


def _is_ours(process):
    try:
        command = process.cmdline()
    except psutil.Error:  # it has just ended
        return False
    return "skyreels.media.sandbox_child" in command or any(
        word.startswith(("ray::Map", "ray::_extract", "ray::_write", "ray::MapWorker")) for word in command[:1]
    )
