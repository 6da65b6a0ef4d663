"""Processes that do a stage together: one that fails or stays behind ends them all, whatever the others wait for."""

import os
import threading
from functools import partial

import pytest

from skyreels.serving.config import Pool
from skyreels.serving.on_ray import gang
from skyreels.serving.on_ray.gang import Follower, Gang
from skyreels.serving.servable import Work
from tests.skyreels.serving.clips import Clips

pytestmark = pytest.mark.slow


class Waits(Clips):
    """Followers of this one say which file they are given, wait inside a stage named `wait`, and end in one named
    `die`."""

    def __init__(self, heard, stages):
        super().__init__()
        self.heard = heard

    def load(self, stages):
        assert stages == ("base",), "its stage is base"

    def run(self, work):
        self.heard.write_bytes(work.files["plan.json"].read_bytes())
        if work.stage == "die":
            os._exit(1)
        if work.stage == "wait":
            threading.Event().wait()
        if work.stage == "raise":
            raise ValueError("no such tone")
        return {}

    def run_together(self, works):
        self.heard.write_bytes(b"".join(work.files["plan.json"].read_bytes() for work in works))


class Leader:
    """A replica's own part: it waits until it is let go, or raises at once."""

    def __init__(self):
        self.let_go, self.raises = threading.Event(), None

    def run(self, work):
        if self.raises is not None:
            raise self.raises
        self.let_go.wait()
        return {"made": work.stage}

    def run_together(self, works):
        return [self.run(work) for work in works]


@pytest.fixture
def followed(ray_cluster, tmp_path, monkeypatch):
    """(gang, leader, what followers heard, exit statuses of the replica): of one leader and one follower."""
    import ray

    monkeypatch.setattr(gang, "_SETTLE_S", 2.0)
    leader, heard, ends = Leader(), tmp_path / "heard", []
    monkeypatch.setattr(gang.os, "_exit", lambda status: (ends.append(status), leader.let_go.set()))
    follower = ray.remote(Follower).options(num_cpus=0, max_concurrency=2).remote(partial(Waits, heard), ("base",))
    ray.get(follower.load.remote())
    yield Gang(leader, [follower], _stays=[follower.stay.remote()]), leader, heard, ends
    ray.kill(follower)


@pytest.fixture
def work(tmp_path):
    """work(stage): with one file."""
    path = tmp_path / "plan.json"
    path.write_text("a plan")
    return lambda stage: Work(stage, {"plan.json": path}, tmp_path, step=lambda _: None)


def test_followers_are_given_what_the_replica_is_given(followed, work):
    together, leader, heard, ends = followed
    leader.let_go.set()
    assert together.run(work("base")) == {"made": "base"}
    assert heard.read_text() == "a plan"
    assert together.run_together([work("base"), work("base")]) == [{"made": "base"}] * 2
    assert heard.read_text() == "a plana plan"
    together.check()
    assert not together.broken
    assert not ends


@pytest.mark.parametrize("failure", ["die", "raise"])
def test_a_follower_that_fails_ends_a_replica_that_waits_for_it(followed, work, failure):
    together, _, heard, ends = followed
    together.run(work(failure))
    assert heard.exists()
    assert ends == [1]
    assert together.broken
    if failure == "die":
        with pytest.raises(RuntimeError, match="1 of 1 followers have ended"):
            together.check()


def test_a_replica_that_fails_while_a_follower_waits_is_not_worked_with_again(followed, work):
    together, leader, _, ends = followed
    leader.raises = MemoryError("too large")
    with pytest.raises(MemoryError):
        together.run(work("wait"))
    assert together.broken
    assert not ends, "what became of the job is to be written down first"
    with pytest.raises(RuntimeError, match="another replica has to do this"):
        together.run(work("base"))


def test_a_follower_that_cannot_load_is_told_before_anybody_waits_for_it(ray_cluster, tmp_path, monkeypatch):
    import ray

    group = ray.util.placement_group([{"CPU": 0.1}] * 2)
    monkeypatch.setattr(gang, "get_current_placement_group", lambda: group)
    pool = Pool(stages=("refine",), ranks=2, num_cpus=0.1)
    with pytest.raises(AssertionError, match="its stage is base"):
        Gang.start(partial(Waits, tmp_path / "heard"), pool, Clips())
    ray.util.remove_placement_group(group)
