"""Ray: lazily joined, private ones on loopback, workers prepared."""

import os
import subprocess
import sys

import pytest
import ray

from skyreels import cluster

UNJOINED = """
import psutil, ray
from skyreels import cluster
with cluster.LazyCluster():
    print(ray.is_initialized(), psutil.Process().children(recursive=True))
"""


def test_a_lazy_cluster_that_nobody_joins_starts_nothing():
    """In a process of its own: here an earlier test may have started Ray."""
    done = subprocess.run([sys.executable, "-c", UNJOINED], capture_output=True, text=True, check=True)
    assert done.stdout == "False []\n"


REFUSED = """
from skyreels import cluster
try:
    with cluster.connect():
        print("started")
except cluster.NoCluster as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RAY_TMPDIR": "/tmp/" + 12 * "too-long-"}, ("cannot start Ray on this machine", "TMPDIR to a short path")),
        ({"RAY_ADDRESS": "no address"}, ("cannot join the Ray cluster no address", "unset RAY_ADDRESS")),
    ],
)
def test_a_cluster_that_is_not_to_be_had_is_an_error_with_a_remedy(variables, said):
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    command = [sys.executable, "-c", REFUSED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | variables, check=True)
    assert all(part in done.stdout for part in said), done.stdout


def test_the_private_cluster_is_on_loopback(ray_cluster):
    assert ray_cluster.startswith("127.0.0.1:")


def test_joining_uses_the_connection_that_is_open(ray_cluster):
    with cluster.LazyCluster() as lazy:
        lazy.join()
        lazy.join()
        assert ray.get_runtime_context().gcs_address == ray_cluster
    assert ray.get_runtime_context().gcs_address == ray_cluster


def test_workers_can_import_torchvision_and_our_packages(ray_cluster):
    @ray.remote(num_cpus=1)
    def imported():
        import sys

        prepared = "skyreels" in sys.modules
        import torchvision

        import jobs
        import model
        import pipelines

        return prepared, [module.__name__ for module in (torchvision, model, pipelines, jobs)]

    assert ray.get(imported.remote()) == (True, ["torchvision", "model", "pipelines", "jobs"])
