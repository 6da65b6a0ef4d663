"""The time that is told of a job comes true: on a service of its own, for it learns from all that was done there."""

import time

import pytest


@pytest.mark.slow
def test_the_time_that_is_told_comes_true_within_a_third(http, ended):
    for _ in range(2):
        ended(http.post("/v1/videos", json={"prompt": "steady red"}).json()["id"])
    told = [http.post("/v1/videos", json={"prompt": "steady red"}).json() for _ in range(3)]
    asked = time.time()
    etas = [job["eta_seconds"] for job in told]
    done = []
    for job in told:
        ended(job["id"])
        done.append(time.time() - asked)
    assert etas == sorted(etas)
    assert etas == pytest.approx(done, rel=0.3)
