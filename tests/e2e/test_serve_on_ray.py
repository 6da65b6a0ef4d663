"""One configuration on a real cluster: a submitted job and `serve deploy`, each ends in a clip."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml

from tests.generation.conftest import model_folder  # noqa: F401 (a fixture)

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

    def application(self):
        """What `serve status` says of the service, without another process for each look."""
        return httpx.get(f"{self.dashboard}/api/serve/applications/").json()["applications"]["skyreels"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
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
    log = (tmp_path_factory.mktemp("cluster") / "log").open("w")
    head = subprocess.Popen(words, env=starting, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        until(lambda: answers(f"http://127.0.0.1:{dashboard}/api/version"), 240)
        trial = {"args": ["ray", "job", "submit", "--", "true"], "env": environment, "capture_output": True}
        until(lambda: subprocess.run(**trial, timeout=120, check=False).returncode == 0, 240)  # its agent is up

        def run(*words):
            done = subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            return done.stdout

        yield Cluster(run, f"http://127.0.0.1:{dashboard}")
    finally:
        head.terminate()  # `--block` ends what it started
        head.wait(60)


def answers(url):
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def until(holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def clip(url):
    """The bytes of a clip that is asked for there."""
    job = httpx.post(f"{url}/v1/videos", json={"prompt": "a red ball", "seed": 1, "refine": True}, timeout=60).json()

    def told():
        return httpx.get(f"{url}/v1/videos/{job['id']}", timeout=60).json()

    until(lambda: told()["status"] not in ("queued", "in_progress"), 240)
    last = told()
    assert last["error"] is None, last
    assert last["timings"].keys() == {"queue", "base", "refine", "decode"}
    return httpx.get(f"{url}/v1/videos/{job['id']}/content", timeout=60).content


def test_a_submitted_job_and_a_deployed_file_serve_the_same_clip(cluster, model_folder, tmp_path):  # noqa: F811
    (port,) = free_ports(1)
    config = yaml.safe_load((REPOSITORY / "cluster/serve.yaml").read_text())
    arguments = config["applications"][0]["args"]
    arguments["model"]["folder"] = str(model_folder)
    arguments["service"] |= {"files": str(tmp_path / "files"), "port": port}
    for pool in arguments["service"]["pools"].values():
        pool |= {"max_replicas": 1, "num_cpus": 0.3}
    config["http_options"]["port"] = port
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    said = cluster.run("ray", "job", "submit", "--", sys.executable, "jobs/serve.py", "--ray", "--config", str(path))
    url = f"http://127.0.0.1:{port}"
    assert f"on {url}" in said
    submitted = clip(url)
    cluster.run("serve", "deploy", str(path))
    until(lambda: cluster.application()["status"] == "RUNNING", 120)
    assert clip(url) == submitted
    assert len(httpx.get(f"{url}/v1/videos").json()["data"]) == 2, "both are in one store"
