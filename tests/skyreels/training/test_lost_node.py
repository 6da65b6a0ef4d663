"""Two Ray nodes on one machine, of which one goes away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import json, psutil, sys
sys.path.insert(0, sys.argv[2])
import toy, skyreels
from ray import cloudpickle
from ray.cluster_utils import Cluster
from skyreels import cluster
from skyreels.training.config import CheckpointConfig, EngineConfig
from skyreels.training.events import CheckpointWritten, Started, StepDone
from skyreels.training.fit import fit
cloudpickle.register_pickle_by_value(toy)
head = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
nodes = Cluster(initialize_head=True, head_node_args=head)
second = nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
import ray
ray.init(address=nodes.address, log_to_driver=False, logging_level="WARNING",
         runtime_env={"worker_process_setup_hook": "skyreels.cluster.prepare_worker"})
seen = []
def lose(node):
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:  # its workers would live on for some seconds
        process.kill()
    nodes.remove_node(node, allow_graceful=False)
def observe(event):
    if isinstance(event, Started):
        seen.append(["start", event.workers, event.step])
    if isinstance(event, StepDone):
        seen.append(["step", event.step, event.metrics["loss"]])
    if isinstance(event, CheckpointWritten) and event.step == 4:  # once: what starts from it writes later ones
        lose(second)
config = EngineConfig(steps=10, precision="fp32", workers=2, min_workers=1, checkpoint=CheckpointConfig(every_steps=4))
outcome = fit(lambda: toy.Toy(pause_s=0.2), config, sys.argv[1], observe)
print(json.dumps({"seen": seen, "step": outcome.step, "restarts": outcome.restarts}))
ray.shutdown()
nodes.shutdown()
"""


@pytest.mark.slow
def test_a_run_goes_on_with_the_workers_that_are_left(toy, tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "run"), str(Path(__file__).parent)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    starts = [item[1:] for item in found["seen"] if item[0] == "start"]
    assert starts == [[2, 0], [1, 4]], "two workers from the beginning, then one from the checkpoint"
    assert (found["step"], found["restarts"]) == (10, 1)
    losses = {}
    for kind, step, loss in found["seen"]:
        if kind == "step":
            assert losses.setdefault(step, loss) == pytest.approx(loss, rel=1e-5), "a step done twice is the same"
    assert sorted(losses) == list(range(10))
