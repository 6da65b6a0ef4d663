"""The time that is told of a job comes true: on services of their own, for one learns from all that was done there."""

import time

import httpx
import pytest

from skyreels.serving.config import ServingConfig
from tests.skyreels.serving.clips import PAUSES, STEPS, Clips
from tests.skyreels.serving.conftest import running

ONCE = httpx.Limits(max_keepalive_connections=0)  # what is kept open may be closed while a machine stands still
LEARNED, TOLD, TRIES = 2, 3, 4
REST_S = len(Clips.stages) * STEPS * PAUSES["slow"]
"""What a job cannot do without. Where one takes half as long again, the machine stood still: that tells nothing."""


@pytest.mark.slow
def test_the_time_that_is_told_comes_true_within_a_third(tmp_path):
    for number in range(TRIES):
        config = ServingConfig(files=str(tmp_path / str(number)))
        with running(Clips(), config) as address, httpx.Client(base_url=address, timeout=60, limits=ONCE) as http:
            alone = [finished(http, [ask(http)])[0] for _ in range(LEARNED)]
            asked = [ask(http) for _ in range(TOLD)]
            took = finished(http, asked)
        etas = [job["eta_seconds"] for job, _ in asked]
        assert etas == sorted(etas)
        if max(*alone, took[-1] / TOLD) < 1.5 * REST_S:
            assert etas == pytest.approx(took, rel=0.3)
            return
    pytest.fail(f"the machine stood still in each of {TRIES} tries, at last for {took[-1] - TOLD * REST_S:.1f} s")


def ask(http):
    """(the job, when it was told)."""
    return http.post("/v1/videos", json={"prompt": "slow red"}).json(), time.monotonic()


def finished(http, asked):
    """Seconds from when each job was told until it is done."""
    took = []
    for job, told_at in asked:
        deadline = time.monotonic() + 120
        while http.get(f"/v1/videos/{job['id']}").json()["status"] != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        took.append(time.monotonic() - told_at)
    return took
