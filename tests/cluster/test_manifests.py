"""What is applied to a cluster, held against the code: settings that exist, jobs not cut, metrics that are told."""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from jobs import train
from jobs.serve import Settings
from pipelines.generation.service import STAGES
from skyreels.config import build
from skyreels.serving.http.metrics import Metrics
from skyreels.serving.on_ray.proxy import READY_S, READY_VARIABLE
from skyreels.serving.store.jobs import JobStore

CLUSTER = Path(__file__).parents[2] / "cluster"
_NAMES = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml")
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


@pytest.mark.parametrize("name", CONFIGS)
def test_serve_takes_it_and_gives_a_proxy_as_long_as_a_submitted_job_does(name):
    controller = ServeDeploySchema.model_validate(CONFIGS[name]).controller_options
    assert controller.runtime_env == {"env_vars": {READY_VARIABLE: str(READY_S)}}


KUBERAY = yaml.safe_load(Path(__file__).with_name("kuberay.yaml").read_text())
MANIFESTS = {name: yaml.safe_load((CLUSTER / name).read_text()) for name in _NAMES}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_takes_every_manifest_as_it_is(name):
    jsonschema.Draft202012Validator(KUBERAY).validate(MANIFESTS[name])


MISTAKES = {
    "a name that does not exist": ("rayservice.yaml", lambda spec: spec.update(rayClusterDeletionDelay=3)),
    "a number for a word": ("rayservice.yaml", lambda spec: _head(spec)["rayStartParams"].update({"num-cpus": 0})),
    "a group without bounds": ("raycluster.yaml", lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas")),
    "no head": ("raycluster.yaml", lambda spec: spec.pop("headGroupSpec")),
    "a field of another kind": ("rayjob.yaml", lambda spec: spec.update(serveConfigV2="")),
    "a pod's field at its group": ("rayservice.yaml", lambda spec: _head(spec).update(volumes=[])),
    "memory without a unit of its own": ("raycluster.yaml", lambda spec: _limits(spec).update(memory="64GB")),
}


def _head(spec):
    return spec.get("rayClusterConfig", spec)["headGroupSpec"]


def _limits(spec):
    return _head(spec)["template"]["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_an_api_server_would_drop_or_refuse_is_found(mistake):
    name, make = MISTAKES[mistake]
    manifest = yaml.safe_load((CLUSTER / name).read_text())
    make(manifest["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(KUBERAY).validate(manifest)


def test_the_job_is_one_of_ours_on_the_cluster_that_stays():
    spec = MANIFESTS["rayjob.yaml"]["spec"]
    program, script, *words = shlex.split(spec["entrypoint"])
    assert (program, script) == ("python", "jobs/train.py")
    train._parser().parse_args(words)
    assert spec["clusterSelector"] == {"ray.io/cluster": MANIFESTS["raycluster.yaml"]["metadata"]["name"]}


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
