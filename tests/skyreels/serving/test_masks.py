"""Masks by shape: each drawn as an independent formula says, and what is wrong told by its field."""

import io
import json

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from skyreels.media.encode import write_video
from skyreels.serving.errors import ServingError
from skyreels.serving.intake.masks import drawn_mask

VIDEO = {"size": [32, 24], "fps": 8.0, "frames": 8}
Y, X = np.mgrid[0:24, 0:32]
SQUARE = (X >= 4) & (X < 12) & (Y >= 6) & (Y < 18)
STILL = {
    "pixels": {"type": "bbox", "box": [4, 6, 12, 18]},
    "shares": {"type": "bbox", "box": [4 / 32, 6 / 24, 12 / 32, 18 / 24], "units": "relative"},
    "polygon": {"type": "polygon", "points": [[4, 6], [11, 6], [11, 17], [4, 17]]},
    "runs": {"type": "rle", "size": [24, 32], "counts": [4 * 24 + 6, *[12, 12] * 7, 12, 6 + 20 * 24]},
}


def text_of(counts):
    """COCO's own encoder, by its definition: five bits a character, differences to the run before the last."""
    characters = ""
    for number, count in enumerate(counts):
        value = count - counts[number - 2] if number > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != -1 if bits & 16 else value != 0
            characters += chr(bits + (32 if more else 0) + 48)
    return characters


STILL["text of runs"] = {**STILL["runs"], "counts": text_of(STILL["runs"]["counts"])}


@pytest.mark.parametrize("shape", STILL)
def test_a_still_shape_is_white_where_it_is(tmp_path, shape):
    drawn_mask(STILL[shape], VIDEO, tmp_path / "mask")
    assert (np.asarray(Image.open(tmp_path / "mask").convert("L")) == np.where(SQUARE, 255, 0)).all()


def test_a_tracked_box_moves_evenly(tmp_path):
    boxes = [{"time": 0.25, "box": [0, 0, 8, 8]}, {"time": 0.75, "box": [16, 8, 24, 16]}]
    drawn_mask({"type": "track", "boxes": boxes}, VIDEO, tmp_path / "mask")
    with av.open(str(tmp_path / "mask")) as clip:
        frames = [frame.to_ndarray(format="rgb24")[..., 0] > 127 for frame in clip.decode(video=0)]
    assert len(frames) == 8
    for number, left, top in ((0, 0, 0), (2, 0, 0), (4, 8, 4), (6, 16, 8), (7, 16, 8)):
        expected = (left <= X) & (left + 8 > X) & (top <= Y) & (top + 8 > Y)
        assert (frames[number] == expected).mean() > 0.98, number


def test_what_is_painted_at_a_time_holds_till_the_next(tmp_path):
    empty = {"size": [24, 32], "counts": [24 * 32]}
    square = {name: STILL["runs"][name] for name in ("size", "counts")}
    at = [{"time": 0.25, **square}, {"time": 0.625, **empty}, {"time": 0.75, **square}]
    drawn_mask({"type": "painted", "at": at}, VIDEO, tmp_path / "mask")
    with av.open(str(tmp_path / "mask")) as clip:
        frames = [frame.to_ndarray(format="rgb24")[..., 0] > 127 for frame in clip.decode(video=0)]
    assert len(frames) == 8
    for number, frame in enumerate(frames):
        expected = np.zeros_like(SQUARE) if number == 5 else SQUARE
        assert (frame == expected).mean() > 0.98, number


@pytest.mark.parametrize(
    ("mask", "field", "told"),
    [
        ({"type": "circle"}, "mask", "bbox, polygon, track, rle, painted"),
        ({"type": "painted", "at": []}, "mask.at", "at least 1"),
        ({"type": "painted", "at": [{"time": 1, "size": [24, 32], "counts": [768]}] * 2}, "mask", "rise"),
        ({"type": "painted", "at": [{"time": 0, "size": [24, 32], "counts": [768]}]}, "mask", "covers no pixel"),
        ({"type": "painted", "at": [{"time": 0, "size": [24, 32], "counts": [7]}]}, "mask.at.0.counts", "768"),
        ({"type": "painted", "at": [{"time": 0, "size": [2, 32], "counts": [64]}]}, "mask.at.0.size", "32x24"),
        ({"type": "bbox", "box": [4, 6, 4, 18]}, "mask", "has an area"),
        ({"type": "bbox", "box": [4, 6, 12]}, "mask.box.3", "required"),
        ({"type": "bbox", "box": [100, 100, 120, 120]}, "mask", "covers no pixel"),
        ({"type": "bbox", "box": [0, 0, 1, float("inf")]}, "mask.box.3", "finite"),
        ({"type": "polygon", "points": [[0, 0], [1, 1]]}, "mask.points", "at least 3"),
        ({"type": "polygon", "points": [[0, 0], [1, 1], ["x", 0]]}, "mask.points.2.0", "number"),
        ({"type": "track", "boxes": []}, "mask.boxes", "at least 1"),
        ({"type": "track", "boxes": [{"time": 1, "box": [0, 0, 1, 1]}] * 2}, "mask", "rise"),
        ({"type": "rle", "size": [8, 8], "counts": [64]}, "mask.size", "32x24"),
        ({"type": "rle", "size": [24, 32], "counts": [1, 2]}, "mask.counts", "768"),
        ({"type": "rle", "size": [24, 32], "counts": "\x00"}, "mask.counts", "COCO"),
        ({"type": "rle", "size": [24, 32], "counts": [10**9]}, "mask.counts", "768"),
    ],
)
def test_what_is_wrong_is_told_by_its_field(tmp_path, mask, field, told):
    with pytest.raises(ServingError, match=told) as caught:
        drawn_mask(mask, VIDEO, tmp_path / "mask")
    assert caught.value.field == field


def clip(tmp_path):
    write_video(tmp_path / "clip.mp4", (np.full((24, 32, 3), 80, np.uint8) for _ in range(8)), 8)
    return (tmp_path / "clip.mp4").read_bytes()


@pytest.mark.parametrize("form", ["json", "brackets"])
def test_a_shape_comes_with_its_video(http, ended, tmp_path, form):
    values = {"prompt": "x", "mask_mode": "edit_white"}
    said = {"mask": json.dumps(STILL["pixels"])} if form == "json" else {"mask[type]": "polygon"}
    if form == "brackets":
        said["mask[points]"] = json.dumps(STILL["polygon"]["points"])
    answer = http.post("/v1/videos", data={**values, **said}, files={"source_video": clip(tmp_path)})
    assert answer.status_code == 200, answer.text
    assert ended(answer.json()["id"])["status"] == "completed"
    lonely = http.post("/v1/videos", json={**values, "mask": STILL["pixels"]}).json()["error"]
    assert (lonely["param"], "source_video" in lonely["message"]) == ("mask", True)


def test_a_file_is_sent_once_and_named_often(http, ended, tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 10, 10)).save(data, "PNG")
    sent = http.post("/v1/files", files={"file": ("../x.png", data.getvalue())}, data={"purpose": "vision"})
    told = sent.json()
    assert (sent.status_code, told["object"], told["bytes"], told["kinds"]) == (
        200,
        "file",
        len(data.getvalue()),
        ["image"],
    )
    for named in (told["id"], {"file_id": told["id"]}):
        answer = http.post("/v1/videos", json={"prompt": "x", "first_frame": named})
        assert (answer.status_code, answer.json()["task"]) == (200, "i2v")
    assert http.get(f"/v1/files/{told['id']}/content").content == data.getvalue()
    assert told["id"] in [file["id"] for file in http.get("/v1/files").json()["data"]]
    assert http.delete(f"/v1/files/{told['id']}").json()["deleted"] is True
    assert http.get(f"/v1/files/{told['id']}").status_code == 404
    assert http.post("/v1/videos", json={"prompt": "x", "first_frame": told["id"]}).status_code == 404
    assert ended(answer.json()["id"])["status"] == "completed", "a job keeps its own copy"


@pytest.mark.parametrize(
    "files", [{"file": b"nothing that plays"}, {"other": b"x"}, {"file": b"#EXTM3U\nfile:///etc/passwd\n"}]
)
def test_no_file_is_kept_that_is_none(http, files):
    before = len(http.get("/v1/files").json()["data"])
    answer = http.post("/v1/files", files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert len(http.get("/v1/files").json()["data"]) == before


def test_a_video_is_no_file(http):
    assert httpx.get(f"{http.base_url}/v1/files/video_{'0' * 32}").status_code == 404
