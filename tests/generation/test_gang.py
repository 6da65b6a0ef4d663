"""A replica of two processes on Ray, whose layers are streamed: one clip from shares of its tokens, one cancel, and one
end where either fails."""

import os
import signal
import socket
import time
from functools import partial

import httpx
import pytest
import torch

from model.generation.prepared import Prepared
from model.generation.steps import BaseLatents
from model.generation.wire import from_bytes
from model.generator import Generator
from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.serving.config import Pool, ServingConfig
from skyreels.serving.on_ray.application import NAME, application, deploy
from tests.plain_http import HTTP

pytestmark = pytest.mark.slow

RANKS = {"base": 2, "refine": 2}
ASKED = {"prompt": "a red ball", "seed": 1, "seconds": 1.5, "refine": True, "num_inference_steps": 4}
LONG = {**ASKED, "num_inference_steps": 200}


class Noted(GenerationService):
    """Every stage writes down its rank, its process, and how many of the video's tokens its first layer was given."""

    def __init__(self, log, *settings, **more):
        super().__init__(*settings, **more)
        self._log = log

    def join(self, folder, number, count):
        super().join(folder, number, count)
        parts = self._generator.components.parts
        for name in ("transformer", "refiner"):
            parts[name].layers[0].register_forward_pre_hook(partial(self._note, name))

    def _note(self, name, _, given):
        with self._log.open("a") as log:
            log.write(f"{name} {self._ranks.rank} {os.getpid()} {given[0].media.shape[1]}\n")


@pytest.fixture(scope="module")
def served(ray_cluster, model_folder, tmp_path_factory):
    """(address, log) of a service whose pools for base and refiner are one replica of two processes."""
    from ray import serve

    folder = tmp_path_factory.mktemp("gang")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pools = {
        "Gang": Pool(stages=("base", "refine"), ranks=2, num_cpus=0.2, min_replicas=1),
        "Decoder": Pool(stages=("decode",), num_cpus=0.2),
    }
    config = ServingConfig(files=str(folder / "files"), port=port, ingress_cpus=0.2, pools=pools)
    build = partial(Noted, folder / "log", ModelSettings(folder=str(model_folder), stream_layers=True), ranks=RANKS)
    yield deploy(application(build, config, build(()).stages), config), folder / "log"
    serve.delete(NAME)
    serve.shutdown()


def until(holds, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def asked(address, wanted):
    answer = HTTP.post(f"{address}/v1/videos", json=wanted, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def ended(address, job):
    def look():
        try:
            told = HTTP.get(f"{address}/v1/videos/{job}", timeout=60).json()
        except httpx.HTTPError:
            return None
        return told if told["status"] in ("completed", "failed") else None

    return until(look)


def noted(log):
    """Rows of (network, rank, process, tokens)."""
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(name, int(rank), int(process), int(tokens)) for name, rank, process, tokens in rows]


def at_work(log, before):
    """Processes by rank, once both are in a job that began after `before` rows."""

    def look():
        found = {rank: process for _, rank, process, _ in noted(log)[before:]}
        return found if found.keys() == {0, 1} else None

    return until(look)


def test_two_processes_make_the_latents_of_one_from_shares_of_its_tokens(served, model_folder):
    address, log = served
    told = ended(address, asked(address, ASKED))
    assert (told["status"], told["attempts"]) == ("completed", 3), told
    (folder,) = (log.parent / "files" / "videos").glob(told["id"])
    generator = Generator.from_pretrained(model_folder)
    call = from_bytes(Prepared, (folder / "request-0" / "prepared.safetensors").read_bytes())
    base = generator.sample_base(call)
    for stage, streams in (("base-1", base.streams), ("refine-2", generator.refine(call, base))):
        made = from_bytes(BaseLatents, (folder / stage / "latents.safetensors").read_bytes()).streams
        assert made.keys() == streams.keys()
        for name, values in streams.items():
            torch.testing.assert_close(made[name], values, atol=1e-3, rtol=1e-3)
    whole = {"transformer": call.clip.latent_frames * 4, "refiner": call.refined.latent_frames * 16}
    for name, tokens in whole.items():
        shares = {(rank, count) for network, rank, _, count in noted(log) if network == name}
        assert sorted(rank for rank, _ in shares) == [0, 1]
        assert sum(count for _, count in shares) == tokens


def test_a_cancel_ends_all_ranks_and_the_next_job_finds_them(served):
    address, log = served
    before = len(noted(log))
    job = asked(address, LONG)
    processes = at_work(log, before)
    assert HTTP.post(f"{address}/v1/videos/{job}/cancel", timeout=60).status_code == 200
    assert ended(address, job)["state"] == "cancelled"
    before = len(noted(log))
    assert ended(address, asked(address, ASKED))["attempts"] == 3
    assert at_work(log, before) == processes


@pytest.mark.parametrize("rank", [1, 0])
def test_where_one_process_is_killed_both_are_replaced_and_the_job_is_done(served, rank):
    address, log = served
    before = len(noted(log))
    job = asked(address, LONG)
    processes = at_work(log, before)
    os.kill(processes[rank], signal.SIGKILL)
    told = ended(address, job)
    assert (told["status"], told["attempts"]) == ("completed", 4), told
    others = {row[2] for row in noted(log)[before:]} - set(processes.values())
    assert len(others) == 2
    until(lambda: not any(map(alive, processes.values())))


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_heads_that_cannot_be_dealt_out_are_told_before_anything_is_deployed(model_folder):
    with pytest.raises(ValueError, match="2 heads cannot be dealt out to 3 ranks"):
        GenerationService(ModelSettings(folder=str(model_folder)), (), ranks={"refine": 3})
