"""Ways in that others have been attacked by. Hostile media are in test_faults, URLs and paths in test_videos."""

import asyncio
import io
import os
import pickle
import shutil

import httpx
import pytest
from PIL import Image

from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.config import ConfigError
from skyreels.serving.config import Pool, ServingConfig
from skyreels.serving.on_ray.application import application
from skyreels.serving.server import build_server
from skyreels.serving.store.keys import Keys
from tests.generation.conftest import model_folder  # noqa: F401 (a fixture)
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.conftest import running


@pytest.fixture
def two(tmp_path):
    """Clients with keys of their own."""
    config = ServingConfig(files=str(tmp_path / "files"), grace_s=5)
    store = config.open_store()
    secrets = [Keys(store).add(name) for name in ("alice", "bob")]
    store.close()
    with running(Clips(), config) as url:
        clients = [httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) for key in secrets]
        yield clients
        for client in clients:
            client.close()


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_anothers_does_not_exist(two):
    alice, bob = two
    file = alice.post("/v1/files", files={"file": picture()}).json()["id"]
    job = alice.post("/v1/videos", json={"prompt": "red"}).json()["id"]
    tries = [
        bob.get(f"/v1/files/{file}"),
        bob.get(f"/v1/files/{file}/content"),
        bob.delete(f"/v1/files/{file}"),
        bob.post("/v1/videos", json={"prompt": "x", "first_frame": {"file_id": file}}),
        bob.get(f"/v1/videos/{job}"),
        bob.get(f"/v1/videos/{job}/content"),
        bob.get(f"/v1/videos/{job}/events"),
        bob.post(f"/v1/videos/{job}/cancel"),
        bob.post(f"/v1/videos/{job}/remix", json={"prompt": "x"}),
        bob.delete(f"/v1/videos/{job}"),
        bob.post("/v1/videos", json={"prompt": "x", "task": "edit", "video": {"id": job}}),
        bob.post("/v1/arena/votes", json={"first": job, "second": job, "verdict": "same"}),
    ]
    assert [answer.status_code for answer in tries] == [404] * len(tries)
    never = bob.get(f"/v1/videos/video_{'0' * 32}").json()["error"]["message"].replace("0" * 32, "")
    assert tries[4].json()["error"]["message"].replace(job.removeprefix("video_"), "") == never
    assert bob.get("/v1/files").json()["data"] == bob.get("/v1/videos").json()["data"] == []
    assert alice.get(f"/v1/files/{file}").status_code == 200


def test_all_votes_are_for_whoever_may_read_metrics(two):
    assert two[0].get("/v1/arena/votes").status_code == 403


@pytest.mark.parametrize(
    ("peer", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("::1", "[::1]:8000", 200),
        ("::ffff:127.0.0.1", "localhost", 200),
        ("10.0.0.5", "127.0.0.1:8000", 403),
        ("127.0.0.1", "evil.example", 403),
    ],
)
def test_without_keys_no_other_machine_is_answered_whatever_it_calls_itself(tmp_path, peer, host, status):
    app = build_server(Clips(), ServingConfig(files=str(tmp_path)))

    async def ask():
        transport = httpx.ASGITransport(app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/healthz", headers={"host": host})

    assert asyncio.run(ask()).status_code == status


def test_no_public_api_beside_a_ray_that_runs_anybodys_code(tmp_path, monkeypatch):
    pools = {"All": Pool(stages=Clips.stages)}
    public = ServingConfig(files=str(tmp_path), host="0.0.0.0", pools=pools)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="lets them run code through Ray"):
        application(Clips, public, Clips.stages)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    application(Clips, public, Clips.stages)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["same", "pytorch_model.bin"])
def test_weights_that_are_a_pickle_run_nothing(model_folder, tmp_path, name):  # noqa: F811
    shutil.copytree(model_folder, tmp_path / "model")
    (weights,) = (tmp_path / "model/transformer").glob("*.safetensors")
    weights.unlink()
    with (weights if name == "same" else weights.with_name(name)).open("wb") as file:
        pickle.dump(Trap(tmp_path / "sprung"), file)
    service = GenerationService(ModelSettings(folder=str(tmp_path / "model")))
    with pytest.raises((ValueError, OSError)):
        service.load(("base",))
    assert not (tmp_path / "sprung").exists()
