"""The service on a Ray cluster: processes are killed while jobs run, and each job ends in one committed result."""

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial

import httpx
import psutil
import pytest

from skyreels.config import ConfigError
from skyreels.serving.config import Pool, ServingConfig
from skyreels.serving.on_ray.application import NAME, application, deploy
from skyreels.serving.on_ray.proxy import NoProxy, start_serve
from skyreels.serving.store.records import State
from tests.plain_http import HTTP
from tests.skyreels.serving.clips import Clips

pytestmark = pytest.mark.slow

POOLS = {"Base": Pool(stages=("base",), num_cpus=0.2), "Refiner": Pool(stages=("refine",), num_cpus=0.2)}


class LoggedClips(Clips):
    """Every start of a stage is written down with its process."""

    def __init__(self, log, stages):
        super().__init__(log)

    def run(self, work):
        with self.log.with_suffix(".processes").open("a") as log:
            log.write(f"{work.stage} {os.getpid()}\n")
        return super().run(work)


@contextmanager
def first_proxy_killed():
    """Within the block the first proxy of Serve is killed as soon as it is known, which is before it is ready."""
    import ray

    over, killed = threading.Event(), []

    def kill():
        while not killed and not over.wait(0.01):
            for actor in ray.util.list_named_actors(all_namespaces=True):
                if actor["name"].startswith("SERVE_PROXY_ACTOR"):
                    ray.kill(ray.get_actor(actor["name"], namespace="serve"))
                    killed.append(actor["name"])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    """(address, config, log) of a service whose pools begin without replicas, and whose first proxy was killed."""
    from ray import serve

    folder = tmp_path_factory.mktemp("served")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = ServingConfig(files=str(folder / "files"), port=port, lease_s=60, ingress_cpus=0.2, pools=POOLS)
    app = application(partial(LoggedClips, folder / "log"), config, Clips.stages)
    with first_proxy_killed():
        address = deploy(app, config)
    yield address, config, folder / "log"
    serve.delete(NAME)
    serve.shutdown()


def until(holds, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def answered(method, url, **more):
    """The answer; None while nobody gives one, as when the ingress was killed."""
    try:
        answer = HTTP.request(method, url, timeout=60, **more)
    except httpx.HTTPError:
        return None
    return None if answer.status_code >= 500 else answer


def asked(address, prompt):
    answer = until(lambda: answered("POST", f"{address}/v1/videos", json={"prompt": prompt}))
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def ended(address, job):
    def look():
        answer = answered("GET", f"{address}/v1/videos/{job}")
        return answer and (told := answer.json())["status"] in ("completed", "failed") and told

    return until(look)


def title_of(process):
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:  # it has just ended
        return ""


def count(log, stage):
    """How often a worker began with the stage."""
    path = log.with_suffix(".processes")
    return path.read_text().count(stage) if path.exists() else 0


def worker_of(log, stage):
    """The process that works on the stage, once there is one."""
    path = log.with_suffix(".processes")
    return until(lambda: path.exists() and [line.split() for line in path.read_text().splitlines() if stage in line])[
        -1
    ]


def test_a_port_of_another_program_is_told_and_leaves_no_serve_that_cannot_move(ray_cluster):
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NoProxy, match=f"does not listen on 127.0.0.1:{port}.*choose a port"):
            start_serve("127.0.0.1", port)
    assert not serve.status().proxies


def test_a_service_whose_first_proxy_was_killed_answers_where_it_says(served):
    address, _, _ = served
    assert HTTP.get(f"{address}/readyz", timeout=60).is_success


def test_a_running_serve_cannot_be_sent_to_another_address(served):
    _, config, _ = served
    with pytest.raises(NoProxy, match=f"listens on 127.0.0.1:{config.port}, not on 127.0.0.1:{config.port + 1}"):
        deploy(application(Clips, config, Clips.stages), config.model_copy(update={"port": config.port + 1}))


def test_a_killed_ingress_and_a_killed_controller_of_serve_cost_a_job_nothing(served):
    address, config, log = served
    starts = count(log, "base")
    job = asked(address, "slow red")
    until(lambda: count(log, "base") > starts)
    for title in ("ray::ServeController", "ray::ServeReplica:skyreels:Ingress"):
        (process,) = [found for found in psutil.Process().children(recursive=True) if title_of(found).startswith(title)]
        process.kill()
    told = ended(address, job)
    assert (told["status"], told["attempts"]) == ("completed", 2), told
    assert ended(address, asked(address, "blue"))["status"] == "completed", "it is served on"
    store = config.open_store()
    assert [event.state for event in store.events(job)].count(State.COMPLETED) == 1
    store.close()


def test_killed_workers_and_a_killed_dispatcher_leave_one_committed_result(served):
    import ray

    address, config, log = served
    starts, refined = count(log, "base"), count(log, "refine")
    job = asked(address, "slow red")
    until(lambda: count(log, "base") > starts)
    _, process = worker_of(log, "base")
    os.kill(int(process), signal.SIGKILL)
    until(lambda: count(log, "base") == starts + 2)
    (dispatcher,) = [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if "#Dispatcher#" in actor["name"]
    ]
    ray.kill(ray.get_actor(dispatcher, namespace="serve"))
    until(lambda: count(log, "refine") > refined)
    _, process = worker_of(log, "refine")
    os.kill(int(process), signal.SIGKILL)
    told = ended(address, job)
    assert (told["status"], told["attempts"]) == ("completed", 4), told
    assert HTTP.get(f"{address}/v1/videos/{job}/content").status_code == 200
    store = config.open_store()
    made = [(file.stage, file.name) for file in store.files(job) if file.stage]
    assert sorted(made) == [("base", "latents.npy"), ("refine", "thumbnail.jpg"), ("refine", "video.mp4")]
    states = [event.state for event in store.events(job)]
    assert states.count(State.COMPLETED) == 1
    progress = [event.progress for event in store.events(job)]
    assert progress == sorted(progress)
    store.close()


def test_a_cancel_reaches_a_replica_within_a_step(served):
    address, _, log = served
    starts = count(log, "base")
    job = asked(address, "slow green")
    until(lambda: count(log, "base") > starts)
    start = time.monotonic()
    assert HTTP.post(f"{address}/v1/videos/{job}/cancel").status_code == 200
    assert ended(address, job)["state"] == "cancelled"
    assert time.monotonic() - start < 3, "a step takes half a second"


def test_a_redeploy_lets_what_runs_end_and_serves_on(served):
    address, config, log = served
    starts = count(log, "base")
    job = asked(address, "slow blue")
    until(lambda: count(log, "base") > starts)
    deploy(application(partial(LoggedClips, log.with_name("second")), config, Clips.stages), config)
    told = ended(address, job)
    assert (told["status"], told["attempts"]) == ("completed", 2), "no attempt was lost"
    assert ended(address, asked(address, "red"))["status"] == "completed"
    assert log.with_name("second.processes").exists(), "the new replicas work"


def test_without_keys_only_this_machine_is_answered(served):
    address, _, _ = served
    assert HTTP.get(f"{address}/healthz", headers={"host": "example.com"}).status_code == 403


def test_every_stage_needs_a_pool(tmp_path):
    with pytest.raises(ConfigError, match="no pool works on refine"):
        application(Clips, ServingConfig(files=str(tmp_path), pools={"Base": POOLS["Base"]}), Clips.stages)
