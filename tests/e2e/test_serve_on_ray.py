"""One configuration on real clusters: a submitted job, `serve deploy` over it, and again after a cluster was killed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
import yaml

from tests.generation.conftest import model_folder  # noqa: F401 (a fixture)
from tests.plain_http import HTTP

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


class Cluster(NamedTuple):
    run: Callable[..., str]
    """`run(words)`: what a command says that is at home there."""
    dashboard: str
    head: psutil.Process

    def application(self):
        """What `serve status` says of the service, without another process for each look."""
        return HTTP.get(f"{self.dashboard}/api/serve/applications/").json()["applications"]["skyreels"]

    def takes_jobs(self):
        """Whether the agent that runs them is up."""
        try:
            return HTTP.post(f"{self.dashboard}/api/jobs/", json={"entrypoint": "true"}, timeout=60).is_success
        except httpx.HTTPError:
            return False

    def kill(self):
        """Every process of it at once, in whatever they do."""
        for process in [self.head, *self.head.children(recursive=True)]:
            process.kill()


@contextmanager
def cluster(folder):
    """A `Cluster` of two CPUs with a dashboard, as `make cluster-up` starts one."""
    gcs, dashboard, agent = free_ports(3)
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_ADDRESS": f"127.0.0.1:{gcs}",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    starting = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    words = ["ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(gcs)]
    words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "2"]
    words += ["--object-store-memory", str(256 << 20), "--include-dashboard", "true"]
    words += ["--dashboard-agent-listen-port", str(agent)]  # the usual one may be another cluster's of this machine
    with (folder / f"cluster-{gcs}.log").open("w") as log:
        head = subprocess.Popen(words, env=starting, cwd=REPOSITORY, stdout=log, stderr=log)

    def run(*words):
        done = subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    try:
        until(lambda: answers(f"http://127.0.0.1:{dashboard}/api/version"), 240)
        yield Cluster(run, f"http://127.0.0.1:{dashboard}", psutil.Process(head.pid))
    finally:
        head.terminate()  # `--block` ends what it started
        head.wait(60)


def answers(url):
    try:
        return HTTP.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def until(holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # what is asked is at work on the same cores


def ask(url):
    """A clip in so many steps that its making is seen."""
    wanted = {"prompt": "a red ball", "seed": 1, "refine": True, "num_inference_steps": 60}
    return HTTP.post(f"{url}/v1/videos", json=wanted, timeout=60).json()


def told(url, job):
    return HTTP.get(f"{url}/v1/videos/{job['id']}", timeout=60).json()


def clip(url, job):
    """Its bytes, when it is done."""
    until(lambda: told(url, job)["status"] not in ("queued", "in_progress"), 240)
    last = told(url, job)
    assert last["error"] is None, last
    assert last["timings"].keys() == {"queue", "base", "refine", "decode"}
    return HTTP.get(f"{url}/v1/videos/{job['id']}/content", timeout=60).content


@pytest.fixture
def config(model_folder, tmp_path):  # noqa: F811
    """(file, address) of `cluster/serve.yaml` with a model, a folder, a port and small pools."""
    (port,) = free_ports(1)
    values = yaml.safe_load((REPOSITORY / "cluster/serve.yaml").read_text())
    arguments = values["applications"][0]["args"]
    arguments["model"]["folder"] = str(model_folder)
    arguments["service"] |= {"files": str(tmp_path / "files"), "port": port}
    for pool in arguments["service"]["pools"].values():
        pool |= {"max_replicas": 1, "num_cpus": 0.3}
    values["http_options"]["port"] = port
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, f"http://127.0.0.1:{port}"


def test_what_is_submitted_and_deployed_makes_one_clip_and_a_job_outlives_its_cluster(config, tmp_path):
    path, url = config
    with cluster(tmp_path) as first:
        until(first.takes_jobs, 240)
        said = first.run("ray", "job", "submit", "--", sys.executable, "jobs/serve.py", "--ray", "--config", str(path))
        assert f"on {url}" in said
        made = clip(url, ask(url))
        first.run("serve", "deploy", str(path))
        until(lambda: first.application()["status"] == "RUNNING", 120)
        assert clip(url, ask(url)) == made
        job = ask(url)
        until(lambda: told(url, job)["status"] == "in_progress", 240)
        first.kill()
    with cluster(tmp_path) as second:
        second.run("serve", "deploy", str(path))
        until(lambda: second.application()["status"] == "RUNNING", 120)
        assert told(url, job)["status"] in ("queued", "in_progress"), "it was killed in the middle"
        assert clip(url, job) == made
        assert told(url, job)["attempts"] > len(made_in(job, url)), "a stage was begun twice"
        assert len(HTTP.get(f"{url}/v1/videos").json()["data"]) == 3, "all are in one store"


def made_in(job, url):
    """The stages that it went through."""
    return told(url, job)["timings"].keys() - {"queue"}
