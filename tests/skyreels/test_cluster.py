"""Ray: lazily joined, private ones on loopback, workers prepared."""

import subprocess
import sys

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
