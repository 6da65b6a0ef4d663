"""An operator's last word on a clip: it is in the file that is published, and what goes wrong ends that clip alone."""

import json

import httpx
import numpy as np
import pytest

from jobs import generate
from pipelines.generation.finishing import FinishFailed, finished, load_finish
from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.config import ConfigError
from skyreels.media.encode import write_video
from skyreels.media.probe import probe
from skyreels.serving.config import ServingConfig
from tests.generation import finishers
from tests.skyreels.serving.conftest import running

SIGN = "tests.generation.finishers:sign"


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "clip.mp4", np.zeros((4, 16, 16, 3), np.uint8), 8)
    return tmp_path / "clip.mp4"


def test_what_it_changes_and_says_is_what_is_published(clip):
    before = clip.read_bytes()
    record = finished(load_finish(SIGN), clip, {"prompt": "x"})
    digest = finishers.signature(before, record)
    assert record == {"prompt": "x", "finished": {"signed_by": "operator", "signature": digest.hex()}}
    assert clip.read_bytes().startswith(before)
    assert clip.read_bytes().endswith(digest)
    assert probe(clip).video.packets == 4


def test_nothing_is_asked_of_it(clip):
    before = clip.read_bytes()
    for finish in (None, load_finish(""), load_finish("tests.generation.finishers:says_nothing")):
        assert finished(finish, clip, {"prompt": "x"}) == {"prompt": "x"}
    assert clip.read_bytes() == before


@pytest.mark.parametrize("name", ["empties", "removes", "leads_elsewhere", "tells_what_is_no_json"])
def test_what_leaves_no_clip_is_a_failure(clip, name):
    with pytest.raises(FinishFailed, match="the clip was made"):
        finished(load_finish(f"tests.generation.finishers:{name}"), clip, {})


@pytest.mark.parametrize(
    "name",
    ["no.such.module:f", "tests.generation.finishers", "tests.generation.finishers:none", ":f", f"{__name__}:SIGN"],
)
def test_what_cannot_be_called_is_told_at_the_start(model_folder, name):
    with pytest.raises(ConfigError, match="finish="):
        GenerationService(ModelSettings(folder=str(model_folder), finish=name))
    GenerationService(
        ModelSettings(folder=str(model_folder), finish=name), ()
    )  # where nothing is decoded it is not needed


def test_no_request_names_it(model_folder, tmp_path):
    service = GenerationService(ModelSettings(folder=str(model_folder), finish=SIGN))
    with running(service, ServingConfig(files=str(tmp_path))) as url, httpx.Client(base_url=url) as http:
        answer = http.post("/v1/videos", json={"prompt": "x", "finish": "os:remove"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")


@pytest.mark.slow
def test_a_served_clip_is_signed_and_a_failure_ends_its_job_alone(model_folder, tmp_path):
    service = GenerationService(ModelSettings(folder=str(model_folder), finish=SIGN))
    config = ServingConfig(files=str(tmp_path), batch=1)
    with running(service, config) as url, httpx.Client(base_url=url, timeout=120) as http:
        names = [http.post("/v1/videos", json={"prompt": prompt}).json()["id"] for prompt in ("unsigned", "a red ball")]
        for name in names:
            http.get(f"/v1/videos/{name}/events")
        failed, done = (http.get(f"/v1/videos/{name}").json() for name in names)
        assert (failed["state"], failed["error"]["code"], failed["attempts"]) == ("failed", "finish_failed", 2)
        assert "/etc" not in failed["error"]["message"]
        assert http.get(f"/v1/videos/{names[0]}/content").status_code == 404
        record = http.get(f"/v1/videos/{names[1]}/content", params={"variant": "record"}).json()
        content = http.get(f"/v1/videos/{names[1]}/content").content
    assert done["state"] == "completed"
    digest = finishers.signature(content[: -(8 + 16 + 32)], record)
    assert (content[-32:], record["finished"]["signature"]) == (digest, digest.hex())


@pytest.mark.slow
def test_the_command_line_finishes_clips_as_the_service_does(model_folder, tmp_path, capsys):
    words = ["--model", str(model_folder), "--output", str(tmp_path / "clip.mp4"), "--quiet", "--finish", SIGN]
    assert generate.main([*words, "--prompt", "a red ball"]) == 0
    content, record = ((tmp_path / f"clip.{kind}").read_bytes() for kind in ("mp4", "json"))
    assert content.endswith(bytes.fromhex(json.loads(record)["finished"]["signature"]))
    assert generate.main([*words, "--prompt", "unsigned", "--output", str(tmp_path / "other.mp4")]) == 1
    assert "could not be finished (PermissionError)" in capsys.readouterr().err
    assert not (tmp_path / "other.mp4").exists()
