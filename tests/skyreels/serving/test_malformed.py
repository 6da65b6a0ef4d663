"""Drawn requests, most of them wrong: an answer of the documented form every time, and never the server's fault."""

import json
from contextlib import suppress

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels.media.encode import write_video
from skyreels.serving.intake.fields import nested
from skyreels.serving.request import VideoRequest

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


def check(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@settings(max_examples=100, deadline=None)
@given(values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_json(address, values):
    check(httpx.post(f"{address}/v1/videos", json=values, timeout=60))


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60), kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "x"]))
def test_bytes(address, body, kind):
    check(httpx.post(f"{address}/v1/videos", content=body, headers={"content-type": kind}, timeout=60))


@settings(max_examples=100, deadline=None)
@given(
    fields=st.lists(st.tuples(KEYS, st.text(max_size=10) | SPECIAL.filter(lambda v: isinstance(v, str))), max_size=6)
)
def test_forms(address, fields):
    parts = [(name, (None, value)) for name, value in fields] or [("prompt", (None, "x"))]
    check(httpx.post(f"{address}/v1/videos", files=parts, timeout=60))


@settings(max_examples=300, deadline=None)
@given(fields=st.lists(st.tuples(KEYS, st.text(max_size=10)), max_size=8))
def test_grouping_gives_a_tree_or_a_reason(fields):
    with suppress(ValueError):
        assert {name.partition("[")[0] for name, _ in fields} == nested(fields).keys()


@settings(max_examples=100, deadline=None)
@given(
    path=st.lists(
        st.sampled_from(["..", "%2e%2e", "video_" + "0" * 32, "x", "%00", "é", "content", "events"]), max_size=3
    ),
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]),
    query=st.dictionaries(st.sampled_from(["after", "limit", "order", "variant"]), st.text(max_size=6), max_size=2),
    header=st.sampled_from(["", "-1", "x", "99999999999"]),
)
def test_paths_and_parameters(address, path, method, query, header):
    url = f"{address}/v1/videos/{'/'.join(path)}"
    answer = httpx.request(method, url, params=query, headers={"last-event-id": header, "range": header}, timeout=60)
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


@settings(max_examples=60, deadline=None)
@given(mask=SHAPES)
def test_masks(address, video, mask):
    values = {"prompt": "x", "mask_mode": "edit_white", "mask": json.dumps(mask)}
    check(httpx.post(f"{address}/v1/videos", data=values, files={"source_video": video}, timeout=60))


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_votes(address, body):
    check(httpx.post(f"{address}/v1/arena/votes", content=body, headers={"content-type": "application/json"}))


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(["file", "x", ""]), data=st.binary(max_size=60), purpose=st.text(max_size=80))
def test_files(address, name, data, purpose):
    check(httpx.post(f"{address}/v1/files", files={name: data}, data={"purpose": purpose}, timeout=60))
