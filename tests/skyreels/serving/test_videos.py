"""The routes over a service that makes real clips: every way to ask, and all that can be asked of a job."""

import base64
import hashlib
import io
import json
import re

import av
import numpy as np
import pytest
from PIL import Image


def picture(colour=(9, 9, 9), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(buffer, kind)
    return buffer.getvalue()


DATA_URL = "data:image/png;base64," + base64.b64encode(picture()).decode()


def test_a_prompt_becomes_a_clip(http, ended):
    answer = http.post("/v1/videos", json={"prompt": "a red room", "seconds": "2", "size": "96x64", "seed": 3})
    asked = answer.json()
    assert (answer.status_code, asked["object"], asked["status"], asked["progress"]) == (200, "video", "queued", 0)
    assert answer.headers["location"] == f"/v1/videos/{asked['id']}"
    assert (asked["size"], asked["seconds"], asked["seed"], asked["model"]) == ("96x64", "2.0", 3, "clips")
    job = ended(asked["id"])
    assert (job["status"], job["progress"], job["error"], job["frames"]) == ("completed", 100, None, 16)
    assert job["expires_at"] - job["completed_at"] == 7 * 86400
    assert job["timings"].keys() == {"queue", "base", "refine"}
    content = http.get(f"/v1/videos/{job['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    (output,) = [output for output in job["outputs"] if output["variant"] == "video"]
    assert hashlib.sha256(content.content).hexdigest() == output["sha256"]
    with av.open(io.BytesIO(content.content)) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert (len(frames), frames[0].shape) == (16, (64, 96, 3))
    assert np.abs(frames[0].mean((0, 1)) - (200, 0, 0)).max() < 8
    thumbnail = http.get(f"/v1/videos/{job['id']}/content", params={"variant": "thumbnail"})
    assert Image.open(io.BytesIO(thumbnail.content)).size == (96, 64)
    missing = http.get(f"/v1/videos/{job['id']}/content", params={"variant": "spritesheet"})
    assert missing.status_code == 404


REFERENCES = [{"type": "image", "tag": f"@{name}", "source": name} for name in ("one", "two")]
ROWS = {"references[][type]": "image", "references[][tag]": "@one", "references[][source]": "one"}
FORMS = {
    "json": {
        "prompt": "@one turns",
        "first_frame": DATA_URL,
        "references": [{"type": "image", "tag": "@one", "source": DATA_URL}],
    },
    "image_url": {"prompt": "x", "input_reference": {"image_url": DATA_URL}},
    "file": {"prompt": "x", "seconds": "1", "size": "64x48"},
    "brackets": {"prompt": "x", "input_reference[image_url]": DATA_URL, "metadata[a]": "b"},
    "named parts": {"prompt": "@one and @two", "references": json.dumps(REFERENCES), "first_frame": "one"},
    "bracket rows": {"prompt": "@one", **ROWS, "first_frame": "one"},
}
PARTS = {
    "file": {"input_reference": ("../../etc/passwd", picture(), "text/x-python")},
    "named parts": {"one": ("x.png", picture()), "two": ("y.jpg", picture((1, 2, 3), "JPEG"))},
    "bracket rows": {"one": ("x.png", picture())},
}


@pytest.mark.parametrize("form", FORMS)
def test_media_come_in_every_shape_that_clients_send(http, ended, form):
    as_json = form in ("json", "image_url")
    sent = {"json": FORMS[form]} if as_json else {"data": FORMS[form], "files": PARTS.get(form)}
    answer = http.post("/v1/videos", **sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == "i2v"
    assert ended(answer.json()["id"])["status"] == "completed"


REFUSED = {
    "no prompt": ({"seconds": 1}, "prompt", "invalid_value"),
    "empty prompt": ({"prompt": ""}, "prompt", "invalid_value"),
    "unknown field": ({"prompt": "x", "promt": "y"}, "promt", "unknown_parameter"),
    "two names": ({"prompt": "x", "seconds": 1, "duration": 2}, None, "invalid_value"),
    "seconds": ({"prompt": "x", "seconds": -1}, "seconds", "invalid_value"),
    "too long for the model": ({"prompt": "x", "seconds": 6}, "seconds", "invalid_value"),
    "not a number": ({"prompt": "x", "fps": "fast"}, "fps", "invalid_value"),
    "odd size": ({"prompt": "x", "size": "65x48"}, "size", "invalid_value"),
    "model": ({"prompt": "x", "model": "../../etc"}, "model", "model_not_found"),
    "tag not in the prompt": (
        {"prompt": "x @ab", "references": [{"type": "image", "tag": "@a", "source": DATA_URL}]},
        None,
        "invalid_value",
    ),
    "path": ({"prompt": "x", "first_frame": "/etc/passwd"}, "first_frame", "file_not_found"),
    "traversal": ({"prompt": "x", "first_frame": "../../jobs.db"}, "first_frame", "file_not_found"),
    "file url": ({"prompt": "x", "first_frame": "file:///etc/passwd"}, "first_frame", "url_refused"),
    "inside": ({"prompt": "x", "first_frame": "http://169.254.169.254/"}, "first_frame", "url_refused"),
    "file id": ({"prompt": "x", "first_frame": {"file_id": "file_1"}}, "first_frame", "invalid_value"),
    "no such file": ({"prompt": "x", "first_frame": {"file_id": "file_" + "0" * 32}}, None, "not_found"),
    "not base64": ({"prompt": "x", "first_frame": "data:image/png;base64,§§"}, "first_frame", "invalid_url"),
    "no picture": ({"prompt": "x", "first_frame": "data:image/png;base64,AAAA"}, "first_frame", "invalid_media"),
    "webhook": ({"prompt": "x", "webhook_url": "http://10.0.0.1/"}, "webhook_url", "url_refused"),
    "output path": ({"prompt": "x", "output_path": "/tmp/x"}, "output_path", "unknown_parameter"),
    "mask without a mode": ({"prompt": "x", "source_video": DATA_URL, "mask": DATA_URL}, None, "invalid_value"),
    "n": ({"prompt": "x", "n": 9}, "n", "invalid_value"),
    "shots and a prompt": ({"prompt": "x", "shots": [{"prompt": "y", "seconds": 1}]}, None, "invalid_value"),
    "a shot without end": ({"shots": [{"prompt": "y"}]}, "shots.0.seconds", "invalid_value"),
    "shots of none": ({"shots": []}, "prompt", "invalid_value"),
    "another's video": ({"prompt": "x", "task": "edit", "video": {"id": "video_" + "0" * 32}}, None, "not_found"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_in_the_form_that_clients_show(http, case):
    values, field, code = REFUSED[case]
    answer = http.post("/v1/videos", json=values)
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (field, code), error
    assert answer.status_code == (404 if code.endswith("not_found") and field != "first_frame" else 400)
    assert error["type"] == "invalid_request_error"
    assert "/tmp" not in error["message"] or case == "output path"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"[]", "headers": {"content-type": "application/json"}}, 400),
        ({"content": b'{"prompt": NaN}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b'{"prompt": "x", "\\ud800": 1}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"prompt", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400),
        ({"data": {"prompt": "x", "references[][type]": ["image", "image"], "references[][tag]": "@a"}}, 400),
        ({"data": {"prompt": "x", "a[b": "c"}}, 400),
        ({"data": {"prompt": ["x", "y"]}}, 400),
        ({"data": {"prompt": "x"}, "files": {"nobody_asked": b"x"}}, 400),
        ({"data": {f"f{number}": "x" for number in range(70)}, "files": {"a": b"x"}}, 400),
        ({"data": {"prompt": "x"}, "files": [(f"f{number}", b"x") for number in range(20)]}, 400),
    ],
    ids=range(15),
)
def test_bodies_that_are_none_are_refused(http, sent, status):
    answer = http.post("/v1/videos", **sent)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), answer.text


def test_a_body_that_is_too_long_is_not_read(http):
    def endless():
        for _ in range(300):
            yield bytes(1 << 20)

    answer = http.post("/v1/videos", content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


class TestContent:
    @pytest.fixture(scope="class")
    def clip(self, address):
        import httpx

        with httpx.Client(base_url=address, timeout=60) as http:
            job = http.post("/v1/videos", json={"prompt": "a blue room"}).json()
            while http.get(f"/v1/videos/{job['id']}").json()["status"] != "completed":
                pass
            path = f"/v1/videos/{job['id']}/content"
            return path, http.get(path).content

    @pytest.mark.parametrize(
        ("asked", "part"),
        [
            ("bytes=0-9", slice(0, 10)),
            ("bytes=10-", slice(10, None)),
            ("bytes=-7", slice(-7, None)),
            ("bytes=5-99999999", slice(5, None)),
        ],
    )
    def test_a_range_is_that_part(self, http, clip, asked, part):
        path, whole = clip
        answer = http.get(path, headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, whole[part])
        start, stop, _ = part.indices(len(whole))
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"

    @pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=-", "x"])
    def test_what_is_no_single_range_is_the_whole(self, http, clip, asked):
        path, whole = clip
        answer = http.get(path, headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, whole)

    def test_a_range_outside_is_refused(self, http, clip):
        path, whole = clip
        for asked in (f"bytes={len(whole)}-", "bytes=-0"):
            answer = http.get(path, headers={"range": asked})
            assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(whole)}")

    def test_what_has_not_changed_is_not_sent_again(self, http, clip):
        path, whole = clip
        tag = http.head(path).headers["etag"]
        assert http.get(path, headers={"if-none-match": f'"other", W/{tag}'}).status_code == 304
        assert http.get(path, headers={"range": "bytes=0-1", "if-range": '"other"'}).content == whole
        head = http.head(path)
        assert (head.content, head.headers["content-length"]) == (b"", str(len(whole)))
        assert head.headers["x-content-type-options"] == "nosniff"


def told(stream):
    """(number, object) of each server-sent event."""
    number = None
    for line in stream.iter_lines():
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            yield number, json.loads(line[6:])


def test_progress_is_streamed_never_falls_and_goes_on_where_it_was_left(http):
    job = http.post("/v1/videos", json={"prompt": "a slow green room"}).json()
    with http.stream("GET", f"/v1/videos/{job['id']}/events") as stream:
        seen = list(told(stream))
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    progress = [event["progress"] for _, event in seen]
    assert progress == sorted(progress)
    assert {12, 25, 37, 50, 62, 75, 87, 99, 100} == set(progress) - {0}
    assert (seen[0][1]["status"], seen[-1][1]["status"]) == ("queued", "completed")
    with http.stream("GET", f"/v1/videos/{job['id']}/events", headers={"last-event-id": "3"}) as stream:
        assert list(told(stream)) == seen[3:]


def test_a_running_job_is_cancelled_at_its_next_step(http, ended):
    """Steps are so long that a busy machine asks while the next one is at work."""
    job = http.post("/v1/videos", json={"prompt": "glacial"}).json()
    with http.stream("GET", f"/v1/videos/{job['id']}/events") as stream:
        next(event for _, event in told(stream) if event["progress"] >= 12)
    assert http.post(f"/v1/videos/{job['id']}/cancel").json()["state"] == "running"
    over = ended(job["id"])
    assert (over["status"], over["state"], over["error"]["code"]) == ("failed", "cancelled", "cancelled")
    assert over["progress"] < 50
    assert http.get(f"/v1/videos/{job['id']}/content").status_code == 404
    assert http.post(f"/v1/videos/{job['id']}/cancel").json()["state"] == "cancelled"


def test_a_job_that_fails_is_told_with_200_and_the_next_one_runs(http, ended):
    failing = {word: http.post("/v1/videos", json={"prompt": word}).json()["id"] for word in ("crash", "refuse")}
    good = http.post("/v1/videos", json={"prompt": "red"}).json()["id"]
    assert ended(good)["status"] == "completed"
    crashed, refused = ended(failing["crash"]), ended(failing["refuse"])
    assert (crashed["status"], crashed["error"]["code"], crashed["attempts"]) == ("failed", "attempts_exhausted", 3)
    assert "RuntimeError: the device fell over" in crashed["error"]["message"]
    assert (refused["error"]["code"], refused["attempts"]) == ("out_of_memory", 1)


def test_the_same_key_makes_one_job(http):
    values = {"json": {"prompt": "x", "first_frame": DATA_URL}, "headers": {"idempotency-key": "k-1"}}
    first, again = (http.post("/v1/videos", **values).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = http.post("/v1/videos", json={"prompt": "y"}, headers={"idempotency-key": "k-1"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")


def test_several_clips_of_a_request_are_jobs_from_seeds_that_follow_each_other(http, ended):
    values = {
        "json": {"prompt": "red", "first_frame": DATA_URL, "seed": 5, "n": 3},
        "headers": {"idempotency-key": "n"},
    }
    first = http.post("/v1/videos", **values).json()
    assert first["clips"][0] == first["id"]
    assert http.post("/v1/videos", **values).json()["clips"] == first["clips"]  # asked again, it is the same three
    jobs = [ended(name) for name in first["clips"]]
    assert [(job["seed"], job["state"], job["clips"]) for job in jobs] == [
        (seed, "completed", first["clips"]) for seed in (5, 6, 7)
    ]
    listed = [job["id"] for job in http.get("/v1/videos", params={"order": "asc", "limit": 100}).json()["data"]]
    assert listed[-3:] == first["clips"]
    assert all(http.get(f"/v1/videos/{name}/content").status_code == 200 for name in first["clips"])
    remix = http.post(f"/v1/videos/{first['clips'][2]}/remix", json={"prompt": "green"}).json()
    assert (remix["seed"], "clips" in remix) == (7, False)
    http.delete(f"/v1/videos/{first['id']}")
    assert http.get(f"/v1/videos/{first['clips'][1]}").json()["state"] == "completed"


def test_each_of_several_clips_ends_for_itself(http, ended):
    first = http.post("/v1/videos", data={"prompt": "slow red", "n": "2"}).json()
    http.post(f"/v1/videos/{first['clips'][1]}/cancel")
    assert [ended(name)["state"] for name in first["clips"]] == ["completed", "cancelled"]


def test_clips_past_the_last_seed_are_refused(http):
    answer = http.post("/v1/videos", json={"prompt": "x", "seed": 2**63 - 2, "n": 3})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert http.post("/v1/videos", json={"prompt": "x", "seed": 2**63 - 2, "n": 2}).status_code == 200


def test_remix_edit_and_extend_start_from_earlier_jobs(http, ended):
    first = ended(http.post("/v1/videos", json={"prompt": "red", "first_frame": DATA_URL, "seed": 5}).json()["id"])
    remix = http.post(f"/v1/videos/{first['id']}/remix", json={"prompt": "green"}).json()
    assert (remix["remixed_from_video_id"], remix["seed"], remix["task"]) == (first["id"], 5, "i2v")
    assert ended(remix["id"])["status"] == "completed"
    for route, task in (("edits", "edit"), ("extensions", "extend")):
        made = http.post(f"/v1/videos/{route}", json={"prompt": "blue", "video": {"id": first["id"]}})
        assert made.status_code == 200, made.text
        assert ended(made.json()["id"])["status"] == "completed", task
    assert http.post("/v1/videos/edits", json={"prompt": "blue"}).json()["error"]["param"] == "video"


def test_shots_are_one_clip_and_may_be_asked_again_as_one(http, ended):
    shots = [{"prompt": "red", "seconds": 1}, {"prompt": "then blue", "seconds": 0.5}]
    made = http.post("/v1/videos", data={"shots": json.dumps(shots)}).json()
    assert (ended(made["id"])["status"], made["prompt"]) == ("completed", "red\nthen blue")
    again = http.post(f"/v1/videos/{made['id']}/remix", json={"prompt": "green"}).json()
    assert (again["prompt"], again["seconds"], ended(again["id"])["status"]) == ("green", "1.5", "completed")


def test_a_list_pages_and_what_is_deleted_is_gone(http, ended):
    made = [http.post("/v1/videos", json={"prompt": "x"}).json()["id"] for _ in range(3)]
    page = http.get("/v1/videos", params={"limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([made[2], made[1]], True)
    assert (page["first_id"], page["last_id"]) == (made[2], made[1])
    assert http.get("/v1/videos", params={"after": made[1], "limit": 1}).json()["data"][0]["id"] == made[0]
    ended(made[2])
    deleted = http.request("DELETE", f"/v1/videos/{made[2]}", headers={"content-type": "application/json"})
    assert deleted.json() == {"id": made[2], "object": "video.deleted", "deleted": True}
    for path in ("", "/content", "/events"):
        assert http.get(f"/v1/videos/{made[2]}{path}").status_code == 404
    assert http.get("/v1/videos", params={"limit": 0}).json()["error"]["param"] == "limit"


def test_the_service_tells_of_itself(http):
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    (model,) = http.get("/v1/models").json()["data"]
    assert http.get(f"/v1/models/{model['id']}").json() == model
    assert http.get("/v1/models/none").status_code == 404
    text = http.get("/metrics").text
    assert 'skyreels_jobs{state="completed"}' in text
    assert re.search(r"video_[0-9a-f]{32}", text) is None
    schema = http.get("/openapi.json").json()
    body = schema["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"prompt", "seconds", "references", "mask"} <= body["properties"].keys()
    assert http.get("/nothing").json()["error"]["code"] == "not_found"


def test_pages_of_other_origins_and_other_host_names_are_refused(http):
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        answer = http.post("/v1/videos", json={"prompt": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")


def test_how_a_job_stands_can_be_seen_while_it_is_made(http, ended):
    job = http.post("/v1/videos", json={"prompt": "slow show red"}).json()
    assert job["preview"] is None
    assert http.get(f"/v1/videos/{job['id']}/content", params={"variant": "preview"}).status_code == 404
    seen = {}
    while http.get(f"/v1/videos/{job['id']}").json()["state"] in ("queued", "running"):
        told = http.get(f"/v1/videos/{job['id']}").json()
        if told["preview"]:
            answer = http.get(f"/v1/videos/{job['id']}/content", params={"variant": "preview"})
            seen[told["preview"]] = Image.open(io.BytesIO(answer.content)).convert("L").getpixel((5, 5))
    assert len(seen) >= 3
    assert all(value % 40 in (0, 1, 39) for value in seen.values())
    assert ended(job["id"])["status"] == "completed"
