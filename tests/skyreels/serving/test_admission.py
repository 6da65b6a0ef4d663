"""What a job will take is told before it runs, and what is too much is refused with when to come again."""

import pytest

from skyreels.serving.errors import ServingError
from skyreels.serving.store.artifacts import new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.leases import Leases
from skyreels.serving.store.quotas import Quotas
from skyreels.serving.store.records import NewJob


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def opened(tmp_path, now):
    """`opened(quotas)`: a store whose clock stands at `now`."""
    stores = []

    def make(quotas=None):
        stores.append(JobStore(f"sqlite:///{tmp_path}/jobs.db", clock=lambda: now[0], quotas=quotas))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def accept(store, now, amount=10.0, seconds=2.0, owner="me"):
    now[0] += 0.001
    work = {"base": amount, "refine": amount}
    return store.accept(NewJob(new_id(), owner, {}, {}, ("base", "refine"), work=work, seconds=seconds))


def done(store, seconds):
    """The oldest stage that waits, after `seconds` of work."""
    leases = Leases(store, "w")
    leases.commit(leases.claim(["base", "refine"]), [], {}, seconds)


def test_nothing_is_told_of_what_was_never_measured_and_then_it_follows_the_work(opened, now):
    store = opened()
    first = accept(store, now)
    assert store.eta(first) is None
    waiting = accept(store, now, amount=20.0)
    done(store, 4.0)
    assert store.eta(store.job("me", first.id)) is None, "the refiner was never measured"
    done(store, 1.0)
    assert store.eta(waiting) == pytest.approx(2 * 4.0 + 2 * 1.0), "learned after it was accepted"
    later = accept(store, now, amount=5.0)
    assert store.eta(later) == pytest.approx(2.5 + 10.0), "what is ahead counts"


def test_of_jobs_that_are_alike_the_newest_tell_and_none_that_had_to_load_a_model(opened, now):
    store = opened()
    for seconds in (60.0, 2.0):
        accept(store, now)
        done(store, seconds)
        done(store, seconds)
    assert store.eta(accept(store, now)) == pytest.approx(2.0 + 2.0)
    done(store, 2.0)
    done(store, 2.0)
    for _ in range(5):
        accept(store, now)
        done(store, 8.0)
        done(store, 8.0)
    assert store.eta(accept(store, now)) == pytest.approx(8.0 + 8.0), "the machine is slower since"


def test_what_was_measured_of_like_work_is_asked_before_what_is_larger_and_not_dearer_in_proportion(opened, now):
    store = opened()
    for amount, seconds in ((10.0, 3.0), (10.4, 3.0), (20.0, 4.0), (30.0, 5.0), (40.0, 6.0)):
        accept(store, now, amount)
        done(store, seconds)
        done(store, seconds)
    assert store.eta(accept(store, now, 10.0)) == pytest.approx(3.0 + 3.0, rel=0.05)


def test_of_a_stage_that_runs_only_the_rest_is_told(opened, now):
    store = opened()
    accept(store, now)
    done(store, 4.0)
    done(store, 1.0)
    job, behind = accept(store, now), accept(store, now)
    leases = Leases(store, "w")
    lease = leases.claim(["base"])
    leases.beat(lease, 0.5)
    assert store.eta(store.job("me", job.id)) == pytest.approx(2.0 + 1.0)
    assert store.eta(behind) == pytest.approx(5.0 + 3.0)


def test_several_workers_share_what_is_ahead(opened, now):
    store = opened()
    accept(store, now)
    done(store, 4.0)
    done(store, 1.0)
    running = [accept(store, now) for _ in range(2)]
    behind = accept(store, now)
    for _ in running:
        Leases(store, "w").claim(["base"])
    assert store.eta(behind) == pytest.approx(5.0 + 2 * 5.0 / 2)


@pytest.mark.parametrize(
    ("quotas", "code", "wait"),
    [
        (Quotas(queue_per_owner=2), "queue_full", "10"),
        (Quotas(requests_per_minute=2), "rate_limited", "60"),
        (Quotas(seconds_per_day=5.0), "quota_exceeded", "86400"),
    ],
)
def test_what_is_too_much_is_refused_with_when_to_come_again(opened, now, quotas, code, wait):
    store = opened(quotas)
    for _ in range(2):
        accept(store, now)
    with pytest.raises(ServingError) as caught:
        accept(store, now)
    assert (caught.value.status, caught.value.code, caught.value.headers) == (429, code, {"Retry-After": wait})
    accept(store, now, owner="another")
    if code != "queue_full":
        now[0] += float(wait)
        accept(store, now)


def test_a_rate_is_of_clips_and_says_when_as_many_are_free(opened, now):
    store = opened(Quotas(requests_per_minute=3))
    for _ in range(2):
        accept(store, now)
        now[0] += 10.0
    with pytest.raises(ServingError) as caught:
        store.check_room("me", jobs=3)
    assert (caught.value.code, caught.value.headers) == ("rate_limited", {"Retry-After": "50"})  # of the second one
    store.check_room("me", jobs=1)


def test_a_deleted_job_still_counts_for_the_day(opened, now):
    store = opened(Quotas(seconds_per_day=3.0))
    job = accept(store, now)
    store.delete("me", job.id)
    store.expire()
    store.forget_files(job.id)
    with pytest.raises(ServingError, match="2 s of video were asked for within a day"):
        accept(store, now)


def test_a_full_queue_says_when_a_job_will_have_ended(opened, now):
    store = opened(Quotas(queue_per_owner=1))
    accept(store, now)
    done(store, 40.0)
    done(store, 1.0)
    accept(store, now)
    with pytest.raises(ServingError) as caught:
        accept(store, now)
    assert caught.value.headers == {"Retry-After": "41"}


def test_the_place_and_the_time_are_told_to_whoever_asks(http, ended):
    first = http.post("/v1/videos", json={"prompt": "slow red"})
    assert ended(first.json()["id"])["status"] == "completed"
    before = http.post("/v1/videos", json={"prompt": "slow red"})
    behind = http.post("/v1/videos", json={"prompt": "slow red"})
    told = behind.json()
    assert (told["queue_position"], behind.headers["x-queue-position"]) == (1, "1")
    assert 3.0 < told["eta_seconds"] < 13.0, "two jobs of two stages of two seconds"
    assert float(behind.headers["x-eta-seconds"]) == told["eta_seconds"]
    http.post(f"/v1/videos/{told['id']}/cancel")
    http.post(f"/v1/videos/{before.json()['id']}/cancel")
    ended(told["id"])
    metrics = http.get("/metrics").text
    assert 'skyreels_stage_seconds{stage="base"}' in metrics
    assert 'skyreels_http_seconds_count{route="/v1/videos/{video}",status="200"}' in metrics
    assert told["id"] not in metrics
