"""Ray: lazily joined, private ones on loopback, workers prepared."""

import ray

from skyreels import cluster


def test_a_lazy_cluster_that_nobody_joins_starts_nothing():
    with cluster.LazyCluster():
        pass


def test_the_private_cluster_is_on_loopback(ray_cluster):
    assert ray_cluster.startswith("127.0.0.1:")


def test_joining_uses_the_connection_that_is_open(ray_cluster):
    with cluster.LazyCluster() as lazy:
        lazy.join()
        lazy.join()
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_workers_can_import_torchvision_and_our_packages(ray_cluster):
    @ray.remote(num_cpus=1)
    def imported():
        import sys

        return "skyreels" in sys.modules

    assert ray.get(imported.remote())
