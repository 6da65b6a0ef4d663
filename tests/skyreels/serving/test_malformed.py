"""Ten thousand drawn requests, most of them wrong: an answer of the documented form, and never the server's fault.

They reach the routes without a socket; nobody works on what is accepted.
"""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyreels.media.encode import write_video
from skyreels.serving.config import ServingConfig
from skyreels.serving.http.app import build_app
from skyreels.serving.http.service import open_service
from skyreels.serving.intake.fields import nested
from skyreels.serving.request import VideoRequest
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.openapi import requests

NAMES = st.sampled_from([*VideoRequest.model_fields, "input_reference", "duration", "video", "sound", "x", "é", ""])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
SPECIAL = st.sampled_from(
    ["../x", "data:", "data:image/png;base64,", "http://[", "@", "\0", "1e999", "[", "{}", {"id": "../"}, {"url": 1}]
)
VALUES = st.recursive(
    SCALARS | SPECIAL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | NAMES, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.tuples(NAMES, st.lists(st.sampled_from(["[]", "[type]", "[tag]", "[", "[a", "[0]"]), max_size=4)).map(
    lambda parts: parts[0] + "".join(parts[1])
)


pytestmark = pytest.mark.slow

drawn = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """`ask(method, path, **as httpx takes them)`: the answer, of a service whose queue is short."""
    config = ServingConfig(files=str(tmp_path_factory.mktemp("files")), queue_per_owner=30)
    store = config.open_store()
    service = open_service(Clips(), config, store, lambda: True)
    loop = asyncio.new_event_loop()
    transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False, client=("127.0.0.1", 1))
    client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60)

    seen = Counter()

    def request(method, path, **more):
        answer = loop.run_until_complete(client.request(method, path, **more))
        seen[answer.status_code] += 1
        return answer

    yield request
    assert {200, 400, 404, 415, 429} <= seen.keys(), "what is drawn is taken and refused, each for its reason"
    loop.run_until_complete(client.aclose())
    service.close()
    store.close()
    loop.close()


@pytest.fixture(scope="module")
def documented(ask):
    """A strategy of requests, by what the service says of its operations."""
    return requests(ask("GET", "/openapi.json").json())


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@settings(drawn, max_examples=4500)
@given(data=st.data())
def test_every_operation_of_the_document(ask, documented, data):
    method, path, query, headers, body = data.draw(documented)
    more = {}
    if body is not None and body[0] == "application/json":
        more["json"] = body[1]
    elif body is not None and isinstance(body[1], dict):
        more["files"] = [
            (name or "x", (None, value if isinstance(value, str) else json.dumps(value)))
            for name, value in body[1].items()
        ]
    check(ask(method, quote(path, safe="/%"), params=query, headers=headers, **more))


@settings(drawn, max_examples=1800)
@given(values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_json(ask, values):
    check(ask("POST", "/v1/videos", json=values))


@settings(drawn, max_examples=600)
@given(body=st.binary(max_size=60), kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "x"]))
def test_bytes(ask, body, kind):
    check(ask("POST", "/v1/videos", content=body, headers={"content-type": kind}))


@settings(drawn, max_examples=1500)
@given(
    fields=st.lists(st.tuples(KEYS, st.text(max_size=10) | SPECIAL.filter(lambda v: isinstance(v, str))), max_size=6)
)
def test_forms(ask, fields):
    parts = [(name, (None, value)) for name, value in fields] or [("prompt", (None, "x"))]
    check(ask("POST", "/v1/videos", files=parts))


@settings(drawn, max_examples=300)
@given(fields=st.lists(st.tuples(KEYS, st.text(max_size=10)), max_size=8))
def test_grouping_gives_a_tree_or_a_reason(fields):
    with suppress(ValueError):
        assert {name.partition("[")[0] for name, _ in fields} == nested(fields).keys()


@settings(drawn, max_examples=900)
@given(
    path=st.lists(
        st.sampled_from(["..", "%2e%2e", "video_" + "0" * 32, "x", "%00", "é", "content", "events"]), max_size=3
    ),
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]),
    query=st.dictionaries(st.sampled_from(["after", "limit", "order", "variant"]), st.text(max_size=6), max_size=2),
    header=st.sampled_from(["", "-1", "x", "99999999999"]),
)
def test_paths_and_parameters(ask, path, method, query, header):
    url = f"/v1/videos/{'/'.join(path)}"
    answer = ask(method, url, params=query, headers={"last-event-id": header, "range": header})
    assert answer.status_code < 500, answer.text


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, (np.zeros((16, 16, 3), np.uint8) for _ in range(4)), 4)
    return path.read_bytes()


SHAPES = st.fixed_dictionaries(
    {"type": st.sampled_from(["bbox", "polygon", "track", "rle", "x"])},
    optional={
        "box": VALUES | st.lists(st.integers(-1, 20), min_size=4, max_size=4),
        "points": VALUES | st.lists(st.lists(st.floats(0, 20), min_size=2, max_size=2), max_size=4),
        "boxes": VALUES,
        "size": VALUES | st.just([16, 16]),
        "counts": VALUES | st.lists(st.integers(0, 256), max_size=4) | st.text(max_size=8),
        "units": st.sampled_from(["pixels", "relative", "x"]),
    },
)


@settings(drawn, max_examples=150)
@given(mask=SHAPES)
def test_masks(ask, video, mask):
    values = {"prompt": "x", "mask_mode": "edit_white", "mask": json.dumps(mask)}
    check(ask("POST", "/v1/videos", data=values, files={"source_video": video}))


@settings(drawn, max_examples=500)
@given(body=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_votes(ask, body):
    check(ask("POST", "/v1/arena/votes", content=body, headers={"content-type": "application/json"}))


@settings(drawn, max_examples=60)
@given(name=st.sampled_from(["file", "x", ""]), data=st.binary(max_size=60), purpose=st.text(max_size=80))
def test_files(ask, name, data, purpose):
    check(ask("POST", "/v1/files", files={name: data}, data={"purpose": purpose}))
