"""What is applied to a cluster, held against the code: settings that exist, jobs not cut, metrics that are told."""

import json
import re
from pathlib import Path

import pytest
import yaml

from jobs.serve import Settings
from pipelines.generation.service import STAGES
from skyreels.config import build
from skyreels.serving.http.metrics import Metrics
from skyreels.serving.store.jobs import JobStore

CLUSTER = Path(__file__).parents[2] / "cluster"
SERVICE = yaml.safe_load((CLUSTER / "rayservice.yaml").read_text())
CONFIGS = {
    "serve.yaml": yaml.safe_load((CLUSTER / "serve.yaml").read_text()),
    "rayservice.yaml": yaml.safe_load(SERVICE["spec"]["serveConfigV2"]),
}


def settings(name):
    (application,) = CONFIGS[name]["applications"]
    return build(Settings, application["args"], name)


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_exist_and_every_stage_has_a_pool(name):
    stages = [stage for pool in settings(name).service.pools.values() for stage in pool.stages]
    assert sorted(stages) == sorted(STAGES)
    assert CONFIGS[name]["applications"][0]["import_path"] == "jobs.serve:app"
    assert "initial_replicas" not in (CLUSTER / name).read_text().replace("no initial_replicas", "")
    service = settings(name).service
    assert CONFIGS[name]["http_options"] == {"host": service.host, "port": service.port}


def test_both_are_one_service():
    shapes = [{name: pool.stages for name, pool in settings(config).service.pools.items()} for config in CONFIGS]
    assert shapes[0] == shapes[1]


def groups():
    cluster = SERVICE["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_nothing_cuts_a_job_before_its_replica_has_drained():
    longest = max(pool.drain_s for pool in settings("rayservice.yaml").service.pools.values())
    for group in groups():
        pod = group["template"]["spec"]
        environment = {row["name"]: row.get("value") for row in pod["containers"][0]["env"]}
        node = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert longest < node < pod["terminationGracePeriodSeconds"]
        assert pod["terminationGracePeriodSeconds"] < SERVICE["spec"]["rayClusterDeletionDelaySeconds"]


def test_base_and_refiner_have_gpus_of_their_own_that_a_group_offers():
    offered = {}
    for group in groups()[1:]:
        found = json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        offered |= {name: int(limits.get("nvidia.com/gpu", 0)) for name in found}
    pools = settings("rayservice.yaml").service.pools
    for pool in pools.values():
        assert all(offered[name] >= pool.num_gpus for name in pool.resources)
    assert pools["Base"].resources.keys() != pools["Refiner"].resources.keys()


def test_only_the_api_is_open_and_ray_asks_for_a_token():
    policy = yaml.safe_load((CLUSTER / "network-policy.yaml").read_text())["spec"]
    inside, clients = policy["ingress"]
    assert "ports" not in inside
    assert [port["port"] for port in clients["ports"]] == [settings("rayservice.yaml").service.port]
    for group in groups():
        labels = group["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert SERVICE["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_the_image_holds_what_the_project_is_built_of():
    text = (CLUSTER / "Dockerfile").read_text()
    for folder in ("platform", "model", "pipelines", "jobs", "cluster"):
        assert f"COPY --chown=ray {folder} " in text
    assert "USER ray" in text


def test_the_board_asks_for_metrics_that_the_code_tells(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    text = Metrics(store).text().decode()
    store.close()
    told = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    told |= {f"{name}{end}" for name in told for end in ("_bucket", "_count", "_sum")}
    board = json.loads((CLUSTER / "grafana/serving.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for expression in expressions for name in re.findall(r"skyreels_\w+", expression)}
    assert len(asked) >= 8
    assert asked <= told
    for panel in board["panels"]:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= {"state", "stage", "code", "status", "route"}
