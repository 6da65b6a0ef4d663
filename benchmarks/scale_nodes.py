"""Three Ray nodes against one, with the same cores in all: what follows the cut, over made-up pictures.

Every run is a process with a cluster of its own, whose nodes are on this machine and have object stores of their own.
Rows and steps are those of `scale_rows`, with every slice a task on the cluster.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.scale_figures import Figure
from benchmarks.scale_rows import MadeUp, choose, prepared
from skyreels.cluster import LazyCluster
from skyreels.storage import Storage

ROWS, PER_SLICE = 60_000, 5_000
_CORES = 3
_TIMES = 2
_STORE_BYTES = 100 << 20


def measure(folder: Path) -> Iterator[Figure]:
    """The least time of each, runs in turn."""
    spent: dict[int, list[float]] = {1: [], _CORES: []}
    for turn in range(_TIMES):
        for nodes in spent:
            place = folder / f"{turn}-{nodes}"
            command = [sys.executable, "-m", "benchmarks.scale_nodes", "--nodes", str(nodes), "--folder", str(place)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            spent[nodes].append(json.loads(out.splitlines()[-1])["wall_s"])
    one, three = min(spent[1]), min(spent[_CORES])
    seen = "; ".join(f"{nodes} nodes {', '.join(f'{s:.1f}' for s in some)} s" for nodes, some in spent.items())
    yield Figure("three nodes of one core each, speed over one of three", one / three, least=0.9,
                 detail=f"{ROWS:,} rows in {-(-ROWS // PER_SLICE)} slices: {seen}")  # fmt: skip


def _child(nodes: int, folder: Path) -> dict[str, float]:
    root = Storage(str(folder))
    slices, recipe = prepared(root, MadeUp(ROWS, per_slice=PER_SLICE))
    with _cluster(nodes), LazyCluster() as cluster:
        begun = time.monotonic()
        choose(root, slices, recipe, cluster)
        return {"wall_s": time.monotonic() - begun}


@contextmanager
def _cluster(nodes: int) -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    takes = {"num_cpus": _CORES // nodes, "object_store_memory": _STORE_BYTES, "node_ip_address": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        cluster = Cluster(initialize_head=True, head_node_args=takes | {"temp_dir": folder, "include_dashboard": False})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(**takes)
            hook = {"worker_process_setup_hook": "skyreels.cluster.prepare_worker"}
            ray.init(address=cluster.address, runtime_env=hook, log_to_driver=False, logging_level="WARNING")
            assert len([node for node in ray.nodes() if node["Alive"]]) == nodes
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, required=True, choices=(1, _CORES))
    parser.add_argument("--folder", type=Path, required=True, help="where its files go")
    options = parser.parse_args()
    print(json.dumps(_child(options.nodes, options.folder)))


if __name__ == "__main__":
    main()
