"""A good reply, and a server on loopback that speaks chat completions and misbehaves on demand."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from pipelines.curation.captions.requests import CaptionRequest

GOOD = {
    "short": "A red fox runs through snow while wind blows.",
    "long": "A red fox with a white tail tip runs from left to right through deep snow at dusk, its breath showing, "
    "while pine trees sway behind it and the camera follows to the right.",
    "structured": {
        "subjects": [{"type": "animal, fox", "appearance": "red fur", "action": "runs to the right", "is_main": True}],
        "shot_type": "long shot",
        "shot_angle": "eye level",
        "shot_position": "side",
        "camera_motion": "pans right with the fox",
        "environment": "a snowy pine wood",
        "lighting": "soft light at dusk",
        "sfx": ["wind", "steps in snow from 0.5 s"],
    },
}


@pytest.fixture
def reply():
    """`reply(key)` is a good answer about the clip as JSON; keywords replace parts of it."""

    def make(key, **changes):
        return json.dumps({"id": key, **GOOD, **changes})

    return make


@pytest.fixture
def request_for():
    def make(key, **changes):
        image = np.full((48, 64, 3), 90, np.uint8)
        frames = [cv2.imencode(".jpg", image)[1].tobytes() for _ in range(2)]
        return CaptionRequest(key, frames, **{"measurements": {"seconds": 5.0}, **changes})

    return make


class ChatServer:
    """`answer(key, body, attempt)` decides: text -> a completion; int -> that status; bytes -> sent as they are;
    float -> that many seconds of silence; (float, bytes) -> those bytes over and over with such pauses."""

    def __init__(self):
        self.answer = lambda key, body, attempt: 500
        self.seen = []  # (key, body, headers)
        self.active = self.most_active = 0
        self._lock = threading.Lock()
        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._httpd.daemon_threads = True
        threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._httpd.server_port}/v1"
        self.closing = threading.Event()

    def close(self):
        self.closing.set()
        self._httpd.shutdown()
        self._httpd.server_close()

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = body["messages"][1]["content"][0]["text"].split("\n")[0].removeprefix("id: ")
                with server._lock:
                    server.seen.append((key, body, dict(self.headers)))
                    attempt = sum(k == key for k, _, _ in server.seen)
                    server.active += 1
                    server.most_active = max(server.most_active, server.active)
                try:
                    self._send(server.answer(key, body, attempt))
                finally:
                    with server._lock:
                        server.active -= 1

            def _drip(self, pause, piece):
                self.send_response(200)
                self.end_headers()
                while not server.closing.wait(pause):
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        return

            def _send(self, answer):
                if isinstance(answer, tuple):
                    self._drip(*answer)
                elif isinstance(answer, float):
                    server.closing.wait(answer)
                elif isinstance(answer, int):
                    self._whole(answer, json.dumps({"error": self.headers.get("Authorization", "")}).encode())
                elif isinstance(answer, bytes):
                    self._whole(200, answer)
                else:
                    choices = [{"message": {"role": "assistant", "content": answer}}]
                    self._whole(200, json.dumps({"choices": choices, "usage": {"completion_tokens": 11}}).encode())

            def _whole(self, status, content):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        return Handler


@pytest.fixture
def chat_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ChatServer()
    yield server
    server.close()
