"""Webhooks to a real receiver: signed as OpenAI's client checks, told again until they arrive, never elsewhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest
import sqlalchemy as sa

from skyreels.config import ConfigError
from skyreels.serving.config import ServingConfig
from skyreels.serving.dispatch.webhooks import Webhooks, secret_in
from skyreels.serving.server import build_server
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.schema import outbox
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.conftest import running


@pytest.fixture
def receiver():
    """(url, what came, statuses to answer with); 200 where none is left."""
    came, statuses = [], []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.path, dict(self.headers), body))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hooks/", came, statuses
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_became_of_a_job_is_told_and_the_official_client_believes_it(receiver, tmp_path):
    allowed, came, _ = receiver
    secret = secret_in(tmp_path / "secret")
    assert secret_in(tmp_path / "secret") == secret
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    config = ServingConfig(files=str(tmp_path / "files"), webhooks=(allowed,), webhook_secret=secret)
    with running(Clips(), config) as url, httpx.Client(base_url=url, timeout=60) as http:
        jobs = {
            prompt: http.post("/v1/videos", json={"prompt": prompt, "webhook_url": f"{allowed}{prompt}"}).json()["id"]
            for prompt in ("red", "refuse")
        }
        while len(came) < 2:
            assert http.get("/healthz").status_code == 200
        elsewhere = (
            allowed.replace("hooks", "other"),
            allowed + "../x",
            allowed.replace("127.0.0.1", "127.0.0.1@evil.example"),
            allowed.replace("/hooks/", ".evil.example/hooks/"),
        )
        for address in elsewhere:
            answer = http.post("/v1/videos", json={"prompt": "x", "webhook_url": address})
            assert answer.json()["error"]["code"] == "url_refused", address
    client = openai.OpenAI(api_key="x", webhook_secret=secret)
    for path, headers, body in came:
        event = client.webhooks.unwrap(body, headers)
        prompt = path.removeprefix("/hooks/")
        assert event.data.id == jobs[prompt]
        assert event.type == ("video.completed" if prompt == "red" else "video.failed")
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body + b" ", headers)


@pytest.fixture
def told(receiver, tmp_path):
    """`told(answers)`: how often the receiver was called, and how it ended, when each answer came once."""
    url, came, statuses = receiver
    now = [1000.0]
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db", clock=lambda: now[0])
    webhooks = Webhooks(store, secret_in(tmp_path / "secret"))

    def run(answers):
        statuses[:] = answers
        row = {"id": "evt", "job": "video_x", "event": "video.completed", "url": url, "created_at": 1.0}
        with store.engine.begin() as connection:
            connection.execute(outbox.insert().values(**row, next_at=0.0, tries=0))
        for _ in range(20):
            webhooks.deliver()
            assert webhooks.deliver() == 0, "it is not told again at once"
            now[0] += 3600
        with store.engine.begin() as connection:
            return [path for path, _, _ in came], connection.execute(sa.select(outbox.c.ended)).scalar_one()

    yield run
    webhooks.close()
    store.close()


ANSWERS = {
    "again until it arrives": ([500, 503, 200], 3, "delivered"),
    "gone": ([410], 1, "gone"),
    "given up": ([500] * 20, 10, "given up"),
    "no redirect is followed": ([302, 307, 200], 3, "delivered"),
}


@pytest.mark.parametrize(("answers", "times", "ended"), ANSWERS.values(), ids=ANSWERS)
def test_failures_are_told_again(told, answers, times, ended):
    assert told(answers) == (["/hooks/"] * times, ended)


@pytest.mark.parametrize("prefix", ["https://example.com", "ftp://example.com/", "https://a@example.com/", "/x/"])
def test_what_may_be_called_must_end_its_host(tmp_path, prefix):
    config = ServingConfig(files=str(tmp_path), webhooks=(prefix,), webhook_secret="x")
    with pytest.raises(ConfigError, match="whose host ends with a slash"):
        build_server(Clips(), config)


def test_an_event_says_what_and_of_which_job(receiver, told):
    told([200])
    ((_, _, body),) = receiver[1]
    assert json.loads(body) == {
        "id": "evt",
        "object": "event",
        "type": "video.completed",
        "created_at": 1,
        "data": {"id": "video_x"},
    }
