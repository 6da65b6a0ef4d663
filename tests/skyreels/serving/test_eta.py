"""The time that is told of a job comes true: on a service of its own, for it learns from all that was done there."""

import time

import pytest

TRIES = 3
"""Of three jobs each: a machine that stands still for seconds, as one under tests may, keeps no promise."""


@pytest.mark.slow
def test_the_time_that_is_told_comes_true_within_a_third(http, ended):
    for _ in range(2):
        ended(http.post("/v1/videos", json={"prompt": "steady red"}).json()["id"])
    seen = []
    for _ in range(TRIES):
        etas, done = told_and_done(http, ended)
        assert etas == sorted(etas)
        seen.append((etas, done))
        if etas == pytest.approx(done, rel=0.3):
            return
    pytest.fail(f"told and done, each time: {seen}")


def told_and_done(http, ended):
    """Seconds until each of three jobs that wait for each other is done."""
    told = [http.post("/v1/videos", json={"prompt": "steady red"}).json() for _ in range(3)]
    asked = time.time()
    done = []
    for job in told:
        ended(job["id"])
        done.append(time.time() - asked)
    return [job["eta_seconds"] for job in told], done
