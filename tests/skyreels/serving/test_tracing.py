"""Spans as a collector receives them: one trace per job, whose id anyone can tell from the job's."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

pytestmark = pytest.mark.slow

SERVER = """
import sys
from skyreels.serving.config import ServingConfig
from skyreels.serving.server import serve
from tests.skyreels.serving.clips import Clips

serve(Clips(), ServingConfig(files=sys.argv[1], port=0, grace_s=5), lambda url, keyed: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def collector():
    """(its address, what it has received) of an OTLP collector on loopback."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, self.headers["content-type"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def url(collector, tmp_path_factory):
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[0], "OTEL_BSP_SCHEDULE_DELAY": "100", "PYTHONPATH": "."}
    words = [sys.executable, "-c", SERVER, str(tmp_path_factory.mktemp("files"))]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **told})
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()


def spans(received):
    return [
        span
        for _, _, body in received
        for resource in body["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def ended(url, prompt, headers=None):
    job = httpx.post(f"{url}/v1/videos", json={"prompt": prompt}, headers=headers).json()["id"]
    with httpx.stream("GET", f"{url}/v1/videos/{job}/events", timeout=60) as events:
        events.read()
    return job


def of_job(received, job):
    deadline = time.monotonic() + 20
    told = {}
    while "job" not in told:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        mine = [span for span in spans(received) if span["traceId"] == job.removeprefix("video_")]
        told = {span["name"]: span for span in mine}
    return told


def test_a_job_is_one_trace_of_its_stages(url, collector):
    told = of_job(collector[1], job := ended(url, "steady secret words"))
    assert told.keys() == {"job", "stage base", "stage refine"}
    root = told.pop("job")
    assert "parentSpanId" not in root
    for span in told.values():
        assert span["parentSpanId"] == root["spanId"]
        assert int(root["startTimeUnixNano"]) <= int(span["startTimeUnixNano"])
        assert 0.5e9 < int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]) < 5e9
    facts = {row["key"]: row["value"] for row in root["attributes"]}
    assert facts["skyreels.job"] == {"stringValue": job}
    assert facts["skyreels.state"] == {"stringValue": "completed"}
    assert {path for path, _, _ in collector[1]} == {"/v1/traces"}
    assert "secret words" not in json.dumps(collector[1]), "prompts are nobody's business"


def test_a_failed_job_is_an_error_with_its_code(url, collector):
    root = of_job(collector[1], ended(url, "refuse"))["job"]
    assert root["status"] == {"code": 2, "message": "out_of_memory"}


def test_a_request_goes_on_the_trace_of_its_caller(url, collector):
    caller = "0123456789abcdef0123456789abcdef"
    ended(url, "red", {"traceparent": f"00-{caller}-00f067aa0ba902b7-01"})
    deadline = time.monotonic() + 20
    while not (found := [span for span in spans(collector[1]) if span.get("parentSpanId") == "00f067aa0ba902b7"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [(span["name"], span["kind"], span["traceId"]) for span in found] == [("POST /v1/videos", 2, caller)]
