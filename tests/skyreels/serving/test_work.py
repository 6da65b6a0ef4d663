"""What a worker costs beside its work: a step waits for no database, and a cancel is known before it ends."""

import sqlite3
import threading
import time

import pytest

from skyreels.serving.dispatch.work import Watch, work_on
from skyreels.serving.servable import Cancelled
from skyreels.serving.store.artifacts import Artifacts, new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.leases import Leases
from skyreels.serving.store.records import NewJob, State
from skyreels.storage import Storage


@pytest.fixture
def store(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    yield store
    store.close()


@pytest.fixture
def claimed(store):
    """`claimed(lease_s)`: (watch, its thread) of a fresh job."""
    threads = []

    def claim(lease_s=30.0):
        store.accept(NewJob(new_id(), "me", {}, {}, ("base",)))
        leases = Leases(store, "w", lease_s)
        watch = Watch(leases, leases.claim(["base"]), threading.Event())
        threads.append((watch, threading.Thread(target=watch.keep)))
        threads[-1][1].start()
        return watch

    yield claim
    for watch, thread in threads:
        watch.end()
        thread.join()


def until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_step_waits_for_nobody_who_writes(store, tmp_path, claimed):
    watch = claimed()
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    for number in range(100):
        watch.step(number / 100)
    assert time.monotonic() - start < 1
    assert store.job("me", watch.lease.job.id).progress == 0
    other.execute("COMMIT")
    other.close()
    until(lambda: store.job("me", watch.lease.job.id).progress == 99)
    assert len(store.events(watch.lease.job.id)) <= 4, "the newest word is told, not each"


def test_a_cancel_is_known_while_a_step_lasts(store, claimed):
    watch = claimed()
    watch.step(0.1)
    store.cancel("me", watch.lease.job.id)
    until(lambda: watch.cancelled)
    with pytest.raises(Cancelled):
        watch.step(0.2)


def test_a_lease_outlives_a_step_that_is_longer(store, claimed):
    watch = claimed(lease_s=0.9)
    time.sleep(2)
    assert not watch.lost
    assert Leases(store, "other").claim(["base"]) is None
    assert store.job("me", watch.lease.job.id).attempts == 1


class Quick:
    stages = ("base",)

    def run(self, work):
        for number in range(3):
            (work.folder / f"part_{number}.bin").write_bytes(bytes([number]))
        return {}


def test_all_files_of_a_stage_are_kept(store, tmp_path):
    artifacts = Artifacts(Storage(str(tmp_path / "videos")))
    job = store.accept(NewJob(new_id(), "me", {}, {}, ("base",)))
    leases = Leases(store, "w")
    work_on(leases.claim(["base"]), leases, artifacts, Quick(), threading.Event())
    assert store.job("me", job.id).state is State.COMPLETED
    files = store.files(job.id)
    assert [(file.name, b"".join(artifacts.read(file, 0, 1))) for file in files] == [
        (f"part_{number}.bin", bytes([number])) for number in range(3)
    ]
