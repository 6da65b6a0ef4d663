"""Waiting jobs of equal shape are worked on together; what befalls one of them befalls no other."""

import json
import threading
import time

import pytest

from skyreels.serving.dispatch.work import work_on_next
from skyreels.serving.servable import Cancelled
from skyreels.serving.store.artifacts import Artifacts, new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.leases import Leases
from skyreels.serving.store.records import NewJob, State
from skyreels.storage import Storage


@pytest.fixture
def place(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    yield store, Artifacts(Storage(str(tmp_path / "videos")))
    store.close()


@pytest.fixture
def accepted(place, tmp_path):
    """`accepted(prompt, key, most)`: a job that waits."""
    store, artifacts = place

    def accept(prompt, key="same", most=8):
        job, plan = new_id(), tmp_path / "plan.json"
        plan.write_text(json.dumps({"prompt": prompt}))
        together = {"base": (key, most)} if key else {}
        return store.accept(NewJob(job, "me", {}, {}, ("base",), (artifacts.keep(job, plan),), together=together)).id

    return accept


class Choir:
    """Notes who ran with whom; `bad` fails in company and alone, `shy` in company alone."""

    stages = ("base",)

    def __init__(self, step_s=0.0):
        self.ran, self.step_s = [], step_s

    def run(self, work):
        prompt = _prompt(work)
        self.ran.append([prompt])
        if prompt == "bad":
            raise RuntimeError("bad alone")
        (work.folder / "video.mp4").write_text(prompt)
        return {"alone": True}

    def run_together(self, works):
        prompts = [_prompt(work) for work in works]
        self.ran.append(prompts)
        left = set(range(len(works)))
        for number in range(4):
            time.sleep(self.step_s)
            for which in sorted(left):
                try:
                    works[which].step((number + 1) / 4)
                except Cancelled:
                    left.discard(which)
            if not left:
                raise Cancelled
        if {"bad", "shy"} & set(prompts):
            raise RuntimeError("out of memory")
        for which in left:
            (works[which].folder / "video.mp4").write_text(prompts[which])
        return [{"alone": False} if which in left else None for which in range(len(works))]


def _prompt(work):
    return json.loads(work.files["plan.json"].read_text())["prompt"]


def work(place, choir, most=8, leave=None):
    store, artifacts = place
    leases = Leases(store, "w")
    while work_on_next(["base"], leases, artifacts, choir, leave or threading.Event(), most):
        if leave is not None and leave.is_set():
            return


def made(place, job):
    store, artifacts = place
    (file,) = (file for file in store.files(job) if file.stage == "base")
    return b"".join(artifacts.read(file, 0, file.bytes)).decode()


def test_those_of_one_kind_go_together_and_each_gets_its_own(place, accepted):
    jobs = {
        prompt: accepted(prompt, key) for prompt, key in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "x"), ("e", ""))
    }
    choir = Choir()
    work(place, choir)
    assert choir.ran == [["a", "c", "d"], ["b"], ["e"]]
    for prompt, job in jobs.items():
        told = place[0].job("me", job)
        assert (told.state, told.attempts, told.facts["alone"]) == (State.COMPLETED, 1, prompt in "be")
        assert made(place, job) == prompt


@pytest.mark.parametrize(("most", "fit"), [(2, 8), (8, 2)])
def test_no_more_than_are_taken_or_fit(place, accepted, most, fit):
    for prompt in "abcde":
        accepted(prompt, most=fit)
    choir = Choir()
    work(place, choir, most)
    assert choir.ran == [["a", "b"], ["c", "d"], ["e"]]


def test_a_cancel_of_one_is_written_down_at_once_and_leaves_the_others(place, accepted):
    store, _ = place
    jobs = [accepted(prompt) for prompt in "abc"]
    thread = threading.Thread(target=work, args=(place, Choir(step_s=0.5)))
    thread.start()
    while store.job("me", jobs[1]).progress == 0:
        time.sleep(0.01)
    store.cancel("me", jobs[1])
    while store.job("me", jobs[1]).state is State.RUNNING:
        time.sleep(0.01)
    assert store.job("me", jobs[0]).state is State.RUNNING
    thread.join()
    states = [store.job("me", job).state for job in jobs]
    assert states == [State.COMPLETED, State.CANCELLED, State.COMPLETED]
    assert [event.state for event in store.events(jobs[1])].count(State.CANCELLED) == 1


def test_what_fails_together_is_run_alone(place, accepted):
    store, _ = place
    shy, good = accepted("shy"), accepted("good")
    choir = Choir()
    work(place, choir)
    assert choir.ran == [["shy", "good"], ["shy"], ["good"]]
    assert {store.job("me", job).state for job in (shy, good)} == {State.COMPLETED}
    assert {store.job("me", job).attempts for job in (shy, good)} == {1}


def test_what_has_failed_goes_with_nobody_again(place, accepted):
    store, _ = place
    bad, good = accepted("bad"), accepted("good")
    choir = Choir()
    work(place, choir)
    assert choir.ran == [["bad", "good"], ["bad"], ["good"], ["bad"], ["bad"]]
    assert (store.job("me", bad).state, store.job("me", good).state) == (State.FAILED, State.COMPLETED)
    assert (store.job("me", bad).attempts, store.job("me", good).attempts) == (3, 1)


def test_a_worker_that_was_killed_with_a_batch_takes_them_one_by_one(place, accepted):
    store, _ = place
    for prompt in "ab":
        accepted(prompt)
    leases = Leases(store, "killed")
    assert len(leases.join(leases.claim(["base"]), 8)) == 1
    store.release("killed")
    choir = Choir()
    work(place, choir)
    assert choir.ran == [["a"], ["b"]]


def test_a_worker_that_goes_gives_all_of_them_back(place, accepted):
    store, _ = place
    jobs = [accepted(prompt) for prompt in "ab"]
    leave = threading.Event()
    leave.set()
    work(place, Choir(), leave=leave)
    assert [(store.job("me", job).state, store.job("me", job).attempts) for job in jobs] == [(State.QUEUED, 0)] * 2
