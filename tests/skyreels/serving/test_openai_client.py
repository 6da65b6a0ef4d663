"""The official client, unchanged, against a service on loopback that asks for keys."""

import io
import warnings

import av
import httpx
import openai
import pytest
from PIL import Image

from skyreels.config import ConfigError
from skyreels.serving.config import ServingConfig
from skyreels.serving.server import build_server
from skyreels.serving.store.keys import Keys
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.conftest import running

pytestmark = pytest.mark.filterwarnings("ignore")
warnings.simplefilter("ignore", DeprecationWarning)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """(address, secrets by name) of a service with two owners and a key that may only read."""
    config = ServingConfig(files=str(tmp_path_factory.mktemp("files")), grace_s=5, queue_per_owner=3)
    store = config.open_store()
    keys = Keys(store)
    secrets = {name: keys.add(name) for name in ("me", "you")} | {"reader": keys.add("reader", ("read",))}
    store.close()
    with running(Clips(), config) as url:
        yield url, secrets


@pytest.fixture
def client(keyed):
    url, secrets = keyed
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secrets["me"]) as client:
        yield client


def test_a_clip_is_asked_for_polled_and_downloaded(client):
    video = client.videos.create_and_poll(prompt="a green room", seconds="2", size="96x64")
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "96x64", "2.0")
    assert video.model_extra["seed"] == 7
    content = client.videos.download_content(video.id)
    with av.open(io.BytesIO(content.read())) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 16
    thumbnail = client.videos.download_content(video.id, variant="thumbnail")
    assert Image.open(io.BytesIO(thumbnail.read())).size == (96, 64)


def test_files_and_extra_fields_arrive(client):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    extra = {"seed": 11, "metadata": {"shot": "4"}, "audio": False, "guidance_scale": 2.5}
    video = client.videos.create(prompt="x", input_reference=("a.png", buffer.getvalue()), extra_body=extra)
    assert (video.model_extra["task"], video.model_extra["seed"], video.model_extra["metadata"]) == (
        "i2v",
        11,
        {"shot": "4"},
    )


def test_lists_remixes_edits_extensions_and_deletions(client):
    first = client.videos.create_and_poll(prompt="red")
    remix = client.videos.remix(first.id, prompt="blue")
    assert remix.remixed_from_video_id == first.id
    assert client.videos.poll(remix.id).status == "completed"
    film = client.videos.download_content(first.id).read()
    for made in (
        client.videos.edit(prompt="green", video=("clip.mp4", film)),
        client.videos.extend(prompt="green", seconds="2", video=("clip.mp4", film)),
    ):
        assert client.videos.poll(made.id).status == "completed"
    listed = [video.id for video in client.videos.list(limit=2)]
    assert {first.id, remix.id, made.id} <= set(listed)
    deleted = client.videos.delete(first.id)
    assert (deleted.deleted, deleted.object) == (True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(first.id)


def test_a_failed_job_is_a_video_and_not_an_exception(client):
    video = client.videos.create_and_poll(prompt="refuse")
    assert (video.status, video.error.code) == ("failed", "out_of_memory")


def test_errors_have_a_message_a_field_and_a_code(client):
    with pytest.raises(openai.BadRequestError, match="both sides must be even") as caught:
        client.videos.create(prompt="x", size="65x48")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_value")


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["clips"]


def test_the_same_idempotency_key_makes_one_job(client):
    made = [client.videos.create(prompt="x", extra_headers={"Idempotency-Key": "k"}).id for _ in range(2)]
    assert made[0] == made[1]


def test_a_job_of_another_key_does_not_exist(keyed, client):
    url, secrets = keyed
    video = client.videos.create(prompt="x")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secrets["you"]) as other:
        for ask in (other.videos.retrieve, other.videos.delete, other.videos.download_content):
            with pytest.raises(openai.NotFoundError):
                ask(video.id)
        with pytest.raises(openai.NotFoundError):
            other.videos.remix(video.id, prompt="y")
        assert video.id not in [mine.id for mine in other.videos.list()]
    headers = {"authorization": f"Bearer {secrets['you']}"}
    for method, path in (("GET", "events"), ("POST", "cancel")):
        assert httpx.request(method, f"{url}/v1/videos/{video.id}/{path}", headers=headers).status_code == 404
    stolen = httpx.post(
        f"{url}/v1/videos", json={"prompt": "x", "task": "edit", "video": {"id": video.id}}, headers=headers
    )
    assert stolen.status_code == 404
    assert client.videos.poll(video.id).status == "completed"


def test_a_key_opens_what_its_scopes_say(keyed):
    url, secrets = keyed
    reader = {"authorization": f"Bearer {secrets['reader']}"}
    assert httpx.get(f"{url}/v1/videos", headers=reader).status_code == 200
    for method, path in (("POST", "/v1/videos"), ("DELETE", "/v1/videos/x"), ("GET", "/metrics")):
        answer = httpx.request(method, f"{url}{path}", headers=reader)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
    for wrong in ({}, {"authorization": "Bearer sk-x"}, {"authorization": secrets["me"]}):
        answer = httpx.get(f"{url}/v1/videos", headers=wrong)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_more_than_the_queue_takes_is_429_with_when_to_come_again(keyed):
    url, secrets = keyed
    headers = {"authorization": f"Bearer {secrets['you']}"}
    made = [httpx.post(f"{url}/v1/videos", json={"prompt": "slow"}, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in made] == [200, 200, 200, 429]
    assert 1 <= int(made[3].headers["retry-after"]) <= 10
    for answer in made[:3]:
        httpx.post(f"{url}/v1/videos/{answer.json()['id']}/cancel", headers=headers)


def test_secrets_are_not_in_the_database(keyed, tmp_path):
    config = ServingConfig(files=str(tmp_path))
    store = config.open_store()
    secret = Keys(store).add("me")
    with pytest.raises(ValueError, match="there is a key 'me' already"):
        Keys(store).add("me")
    with pytest.raises(ValueError, match="no scope admin"):
        Keys(store).add("you", ("admin",))
    Keys(store).revoke("me")
    assert Keys(store).names() == {}
    store.close()
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_without_keys_no_other_machine_is_served(tmp_path):
    with pytest.raises(ConfigError, match=r"no API keys, and 0\.0\.0\.0 can be reached by others"):
        build_server(Clips(), ServingConfig(files=str(tmp_path), host="0.0.0.0"))
