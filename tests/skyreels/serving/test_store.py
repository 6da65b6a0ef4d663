"""The life of a job: whatever happens in whichever order, one result is committed and progress never falls."""

import threading
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from skyreels.serving.errors import ServingError
from skyreels.serving.store.artifacts import new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.leases import LeaseLost, Leases
from skyreels.serving.store.quotas import Quotas
from skyreels.serving.store.records import NewJob, State, StoredFile
from skyreels.serving.store.schema import metadata
from tests.skyreels.serving.postgres import postgres, programs

STAGES = ("base", "refine")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def server():
    if programs() is None:
        pytest.skip("needs Debian's postgresql")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    server, name = request.getfixturevalue("server"), f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def store(database, clock):
    store = JobStore(database, clock=clock, quotas=Quotas(queue=6, queue_per_owner=4), keep_s=100)
    yield store
    store.close()


@pytest.fixture
def workers(store):
    return Leases(store, "a", lease_s=10), Leases(store, "b", lease_s=10)


def made(store, owner="me", **values):
    return store.accept(NewJob(new_id(), owner, {"prompt": "x"}, {}, STAGES, **values))


def file(name="video.mp4", stage="base", fence=1):
    return StoredFile(stage, name, f"x/{stage}-{fence}/{name}", 3, "0" * 64)


def test_a_job_goes_from_stage_to_stage_and_is_then_complete(store, workers, clock):
    job = made(store, files=(file("prompt", ""),))
    assert (job.state, job.stage, job.progress) == (State.QUEUED, "base", 0)
    clock.now += 2
    lease = workers[0].claim(STAGES)
    assert workers[1].claim(STAGES) is None
    assert workers[0].beat(lease, 0.5) is False
    between = workers[0].commit(lease, [file()], {"size": "64x64"}, 1.5)
    assert (between.state, between.stage, between.progress) == (State.QUEUED, "refine", 50)
    second = workers[1].claim(["refine"])
    assert [stored.name for stored in second.files] == ["prompt", "video.mp4"]
    done = workers[1].commit(second, [file("video.mp4", "refine", 2)], {"fps": 32}, 2.5)
    assert (done.state, done.progress, done.facts) == (State.COMPLETED, 100, {"size": "64x64", "fps": 32})
    assert (done.completed_at, done.expires_at) == (clock.now, clock.now + 100)
    assert done.timings == {"queue": 2.0, "base": 1.5, "refine": 2.5}
    told = [(event.state, event.progress) for event in store.events(job.id)]
    assert told == [("queued", 0), ("running", 0), ("running", 25), ("queued", 50), ("running", 50), ("completed", 100)]
    assert [event.number for event in store.events(job.id, after=4)] == [5, 6]


def test_a_stage_is_claimed_only_by_those_who_can_do_it(store, workers):
    made(store)
    assert workers[0].claim(["refine"]) is None
    assert workers[0].claim(["base"]) is not None


def test_whoever_falls_silent_loses_the_job_and_can_no_longer_write(store, workers, clock):
    job = made(store)
    late = workers[0].claim(STAGES)
    clock.now += 9
    workers[0].beat(late)
    clock.now += 9
    assert workers[1].claim(STAGES) is None, "a sign of life prolongs the lease"
    clock.now += 2
    fresh = workers[1].claim(STAGES)
    assert fresh.fence == late.fence + 1
    for write in (
        lambda: workers[0].beat(late, 0.9),
        lambda: workers[0].commit(late, [file()], {"from": "late"}, 1),
        lambda: workers[0].fail(late, "x", "y"),
        lambda: workers[0].cancelled(late),
        lambda: workers[0].attempt_failed(late, "x"),
        lambda: workers[0].give_back(late),
    ):
        with pytest.raises(LeaseLost):
            write()
    workers[1].commit(fresh, [file(fence=2)], {}, 1)
    assert [stored.place for stored in store.files(job.id)] == ["x/base-2/video.mp4"]
    assert "from" not in store.job("me", job.id).facts


def test_many_workers_at_once_claim_each_job_once(database):
    store = JobStore(database)
    wanted = {made(store).id for _ in range(12)}
    claimed = []

    def work(name):
        leases = Leases(store, name)
        while (lease := leases.claim(STAGES)) is not None:
            claimed.append((lease.job.id, lease.job.stage))
            leases.commit(lease, [file(stage=lease.job.stage)], {}, 0.1)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted((job, stage) for job in wanted for stage in STAGES)
    store.close()


def test_a_job_that_kills_whoever_takes_it_is_given_up_and_takes_nobody_along(store, workers, clock):
    poison = made(store)
    clock.now += 1
    good = made(store)
    for _ in range(3):
        assert workers[0].claim(STAGES).job.id == poison.id  # and the worker dies
        clock.now += 11
    assert workers[0].claim(STAGES).job.id == good.id
    given_up = store.job("me", poison.id)
    assert (given_up.state, given_up.error_code, given_up.attempts) == (State.FAILED, "attempts_exhausted", 3)
    assert "tried 3 times" in given_up.error_message


def test_an_attempt_that_fails_is_made_again_and_the_last_reason_is_told(store, workers):
    job = made(store)
    for number in range(3):
        lease = workers[0].claim(STAGES)
        last = workers[0].attempt_failed(lease, f"reason {number}")
    assert last.state is State.FAILED
    assert "reason 2" in store.job("me", job.id).error_message


def test_work_that_is_given_back_costs_no_attempt(store, workers):
    made(store)
    for _ in range(5):
        workers[0].give_back(workers[0].claim(STAGES))
    assert workers[0].claim(STAGES).job.attempts == 1


class TestCancel:
    def test_at_once_where_nobody_works_on_it(self, store, workers):
        job = made(store)
        assert store.cancel("me", job.id).state is State.CANCELLED
        assert workers[0].claim(STAGES) is None

    def test_between_stages(self, store, workers):
        job = made(store)
        workers[0].commit(workers[0].claim(STAGES), [file()], {}, 1)
        assert store.cancel("me", job.id).state is State.CANCELLED

    def test_at_the_next_sign_of_life_where_somebody_does(self, store, workers):
        job = made(store)
        lease = workers[0].claim(STAGES)
        assert store.cancel("me", job.id).state is State.RUNNING
        assert workers[0].beat(lease) is True
        workers[0].cancelled(lease)
        assert store.job("me", job.id).error_code == "cancelled"

    def test_wins_over_a_commit_that_comes_after_it(self, store, workers):
        job = made(store)
        lease = workers[0].claim(STAGES)
        store.cancel("me", job.id)
        assert workers[0].commit(lease, [file()], {}, 1).state is State.CANCELLED

    def test_at_once_where_the_worker_has_died(self, store, workers, clock):
        job = made(store)
        workers[0].claim(STAGES)
        clock.now += 11
        assert store.cancel("me", job.id).state is State.CANCELLED

    def test_of_a_worker_that_dies_after_it_was_asked(self, store, workers, clock):
        job = made(store)
        workers[0].claim(STAGES)
        store.cancel("me", job.id)
        clock.now += 11
        assert workers[1].claim(STAGES) is None
        assert store.job("me", job.id).state is State.CANCELLED

    def test_changes_nothing_of_what_is_over(self, store, workers):
        job = made(store)
        for _ in STAGES:
            lease = workers[0].claim(STAGES)
            workers[0].commit(lease, [file(stage=lease.job.stage)], {}, 1)
        assert store.cancel("me", job.id).state is State.COMPLETED


def test_the_same_key_makes_one_job_and_another_request_under_it_is_refused(store):
    first = made(store, idempotency_key="k", fingerprint="1")
    assert made(store, idempotency_key="k", fingerprint="1").id == first.id
    assert made(store, owner="you", idempotency_key="k", fingerprint="2").id != first.id
    with pytest.raises(ServingError) as caught:
        made(store, idempotency_key="k", fingerprint="2")
    assert (caught.value.status, caught.value.code) == (422, "idempotency_mismatch")
    assert len(store.page("me").jobs) == 1


def test_jobs_of_one_request_are_accepted_together_or_not_at_all(store):
    every = [NewJob(new_id(), "me", {}, {}, STAGES) for _ in range(3)]
    assert store.accept(*every).id == every[0].id
    assert [job.id for job in store.page("me", newest_first=False).jobs] == [new.id for new in every]
    with pytest.raises(ServingError, match="you have 3 open jobs, and 2 more are too many"):
        store.accept(*(NewJob(new_id(), "me", {}, {}, STAGES) for _ in range(2)))
    assert len(store.page("me").jobs) == 3
    for number in range(5):
        with pytest.raises(ServingError) as caught:
            store.check_room("you", jobs=5 + number)
        assert (caught.value.status, caught.value.field) == (400, "n")  # waiting would not help


def test_more_jobs_than_are_taken_are_refused_with_when_to_come_again(store):
    for _ in range(4):
        made(store)
    with pytest.raises(ServingError, match="you have 4 open jobs") as caught:
        made(store)
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "10"})
    for _ in range(2):
        made(store, owner="you")
    with pytest.raises(ServingError, match="the service has 6"):
        made(store, owner="they")


def test_nobody_sees_the_jobs_of_others(store):
    job = made(store)
    for ask in (store.job, store.cancel, store.delete):
        with pytest.raises(ServingError) as caught:
            ask("you", job.id)
        assert caught.value.status == 404
    assert store.page("you").jobs == []
    assert store.job("me", job.id).state is State.QUEUED


def test_pages_hold_every_job_once(store, clock):
    made_ids = []
    for number in range(4):
        clock.now += number % 2  # some at the same time
        made_ids.append(made(store).id)
    for newest_first in (True, False):
        seen, page = [], store.page("me", limit=3, newest_first=newest_first)
        while page.jobs:
            seen += [job.id for job in page.jobs]
            page = store.page("me", after=seen[-1], limit=3, newest_first=newest_first)
        assert sorted(seen) == sorted(made_ids)


def test_a_result_expires_as_a_whole(store, workers, clock):
    job = made(store, files=(file("prompt", ""),))
    for _ in STAGES:
        lease = workers[0].claim(STAGES)
        workers[0].commit(lease, [file(stage=lease.job.stage)], {}, 1)
    assert store.expire() == []
    clock.now += 101
    assert store.expire() == [job.id]
    assert store.job("me", job.id).state is State.EXPIRED
    assert store.expire() == [job.id], "a sweep that was cut short is made again"
    store.forget_files(job.id)
    assert (store.expire(), store.files(job.id)) == ([], [])
    assert store.events(job.id)[-1].state is State.EXPIRED


def test_what_is_deleted_while_somebody_works_on_it_goes_after_its_end(store, workers):
    job = made(store)
    lease = workers[0].claim(STAGES)
    store.delete("me", job.id)
    with pytest.raises(ServingError):
        store.job("me", job.id)
    assert store.expire() == []
    workers[0].cancelled(lease)
    assert store.expire() == [job.id]
    store.forget_files(job.id)
    assert store.known([job.id]) == set()


class Life(RuleBasedStateMachine):
    """Two workers, one owner and the clock do what they like."""

    leases = Bundle("leases")
    store = None

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        Life.store.clock = self.clock
        with Life.store.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(sa.delete(table))
        self.workers = [Leases(Life.store, name, lease_s=10, max_attempts=2) for name in "ab"]
        self.committed = []
        self.before = {}

    @rule()
    def accept(self):
        if len(self.store.page("me").jobs) < 3:
            made(self.store)

    @rule(target=leases, who=st.integers(0, 1), stage=st.sampled_from([STAGES, STAGES[:1], STAGES[1:]]))
    def claim(self, who, stage):
        lease = self.workers[who].claim(stage)
        if lease is not None:
            assert lease.job.stage in stage
            assert lease.job.stage_attempts <= 2
        return who, lease

    @rule(held=leases, how=st.sampled_from(["beat", "commit", "fail", "cancelled", "attempt_failed", "give_back"]))
    def write(self, held, how):
        who, lease = held
        if lease is None:
            return
        now = self.store.job("me", lease.job.id)
        holds = now.state is State.RUNNING and now.fence == lease.fence
        worker, stage = self.workers[who], lease.job.stage
        values = {
            "beat": (0.7,),
            "commit": ([file(stage=stage, fence=lease.fence)], {}, 1.0),
            "fail": ("x", "y"),
            "attempt_failed": ("z",),
        }.get(how, ())
        try:
            getattr(worker, how)(lease, *values)
        except LeaseLost:
            assert not holds
            return
        assert holds
        if how == "commit":
            self.committed.append((lease.job.id, stage))

    @rule(number=st.integers(0, 2))
    def cancel(self, number):
        found = self.store.page("me").jobs
        if number < len(found):
            self.store.cancel("me", found[number].id)

    @rule(seconds=st.sampled_from([1, 6, 11]))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def nothing_goes_back(self):
        assert len(set(self.committed)) == len(self.committed), "a stage was committed twice"
        for job in self.store.page("me").jobs:
            was = self.before.get(job.id)
            if was is not None:
                assert job.progress >= was.progress
                assert not was.state.is_over or job == was
            assert (job.progress == 100) == (job.state is State.COMPLETED)
            assert (job.error_code is not None) == (job.state in (State.FAILED, State.CANCELLED))
            told = self.store.events(job.id)
            assert [event.number for event in told] == list(range(1, job.last_event + 1))
            assert (told[-1].state, told[-1].progress) == (job.state, job.progress)
            self.before[job.id] = job


def test_many_requests_at_once_are_no_more_than_the_quotas_let_in(database):
    store = JobStore(database, quotas=Quotas(queue_per_owner=3))
    told = []

    def ask():
        for _ in range(3):
            try:
                told.append(made(store).id)
            except ServingError as error:
                told.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(told), told.count("queue_full")) == (18, 15)
    store.close()


def test_one_key_sent_many_times_at_once_makes_one_job(database):
    store = JobStore(database)
    told = []
    ask = lambda: told.append(made(store, idempotency_key="k", fingerprint="f").id)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(told), len(set(told))) == (8, 1)
    store.close()


def test_whatever_happens_a_job_ends_once(database):
    Life.store = JobStore(database)
    try:
        case = Life.TestCase()
        case.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
        case.runTest()
    finally:
        Life.store.close()
