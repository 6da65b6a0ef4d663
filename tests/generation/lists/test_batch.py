"""A list of requests becomes a folder of clips: each once, as it is alone, and a bad line costs itself alone."""

import json
import os
import shutil

import numpy as np
import pytest

from jobs import batch, generate
from skyreels.media.image import read_image, write_image
from skyreels.media.probe import probe
from tests.overlays.scenes import lettered, views

pytestmark = pytest.mark.slow

GOOD = (
    {"name": "ball", "prompt": "a red ball", "seed": 4, "steps": 2},
    {"name": "from-picture", "prompt": "it rolls on", "image": "picture.png"},
    {"name": "long", "prompt": "a long day", "seconds": 1.0, "window": 0.5},
    {"name": "one", "prompt": "a ball", "still": True},
)
BAD = (
    "{",
    {"prompt": "x", "speed": 2},
    {"prompt": "x", "image": "none.png"},
    {"name": "ball", "prompt": "again"},
    {"name": "askew", "prompt": "x", "width": 33, "height": 32},
    {"name": "torn", "prompt": "x", "image": "torn.png"},
)


@pytest.fixture
def listed(media, tmp_path):
    """listed(*lines): the list, with media beside it."""
    folder = tmp_path / "list"
    folder.mkdir()
    shutil.copy(media / "picture.png", folder)
    (folder / "torn.png").write_bytes((media / "picture.png").read_bytes()[:100])

    def write(*lines):
        path = folder / "requests.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write


@pytest.fixture
def run(model_folder, tmp_path, capsys):
    """run(list, *words): what it printed; clips are in tmp_path/out."""

    def call(path, *words):
        given = ["--model", str(model_folder), "--requests", str(path), "--output", str(tmp_path / "out"), "--quiet"]
        assert batch.main([*given, *words]) == 0
        return capsys.readouterr().out

    return call


def clips(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "clips").iterdir()}


def test_each_line_is_its_clip_and_a_bad_one_costs_itself_alone(run, listed, tmp_path, model_folder):
    said = run(listed(*GOOD, *BAD), "--here")
    assert "6 to make, 0 of them done before; 4 cannot be read" in said
    assert "clips     4 in" in said
    suffixes = {"ball": "mp4", "from-picture": "mp4", "long": "mp4", "one": "png"}
    assert clips(tmp_path).keys() == {f"{name}.{end}" for name, own in suffixes.items() for end in (own, "json")}
    words = ["--model", str(model_folder), "--prompt", "a red ball", "--seed", "4", "--steps", "2", "--quiet"]
    assert generate.main([*words, "--output", str(tmp_path / "alone.mp4")]) == 0
    assert (tmp_path / "out" / "clips" / "ball.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    assert probe(tmp_path / "out" / "clips" / "long.mp4").video.packets == 17
    assert read_image(tmp_path / "out" / "clips" / "one.png").shape == (32, 32, 3)
    rows = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == ["line 5", "line 6", "line 7", "line 8", "askew", "torn"]
    for row, why in zip(rows, ("no JSON", "speed", "none.png", "there before", "33", "torn.png"), strict=True):
        assert why in row["why"]


def test_a_second_run_makes_what_changed_what_is_gone_and_nothing_else(run, listed, tmp_path):
    run(listed(*GOOD, BAD[-2]), "--here")
    first = clips(tmp_path)
    assert "5 to make, 5 of them done before" in run(listed(*GOOD, BAD[-2]), "--here")
    assert clips(tmp_path) == first
    (tmp_path / "out" / "clips" / "one.png").unlink()
    os.utime(tmp_path / "list" / "picture.png")  # as if it had been drawn anew
    changed = ({**GOOD[0], "seed": 5}, *GOOD[1:], BAD[-2])
    assert "5 to make, 2 of them done before" in run(listed(*changed), "--here")
    after = clips(tmp_path)
    made = {name for name in after if after[name] != first.get(name)}
    assert made == {"ball.mp4", "ball.json", "from-picture.mp4", "from-picture.json", "one.png", "one.json"}
    assert "5 to make, 4 of them done before" in run(listed(*changed), "--here", "--again")  # the one that failed


def test_a_model_that_cannot_be_read_fails_no_request(run, listed, tmp_path, capsys):
    given = ["--model", str(tmp_path / "none"), "--requests", str(listed(*GOOD)), "--output", str(tmp_path / "out")]
    assert batch.main([*given, "--here", "--quiet"]) == 1
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "out" / "_commits").exists()
    assert "4 to make, 0 of them done before" in run(listed(*GOOD), "--here")


def test_on_ray_it_is_the_same(ray_cluster, run, listed, tmp_path):
    words = ("--workers", "1", "--cpus", "0.5")
    assert "clips     2 in" in run(listed(*GOOD[:2], BAD[-1]), *words)
    assert probe(tmp_path / "out" / "clips" / "ball.mp4").video.packets == 9
    rows = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(row)["line"] for row in rows] == ["torn"]
    before = clips(tmp_path)
    assert "3 to make, 3 of them done before" in run(listed(*GOOD[:2], BAD[-1]), "--here")
    assert clips(tmp_path) == before


def test_the_record_of_a_removal_tells_what_was_found_and_a_clip_without_any_is_a_failure(run, listed, tmp_path):
    laid, _ = lettered(views(3, 1, size=(192, 128))[0], "No entry", (30, 100), 0.6)
    path = listed(
        {"name": "sign", "prompt": "a wall", "video": "laid.png", "remove": ["text"], "still": True},
        {"name": "bare", "prompt": "a wall", "video": "bare.png", "remove": ["text"], "still": True},
    )
    write_image(path.with_name("laid.png"), np.repeat(laid[..., None], 3, -1))
    write_image(path.with_name("bare.png"), np.full((128, 192, 3), 90, np.uint8))
    run(path, "--here")
    asked = json.loads((tmp_path / "out" / "clips" / "sign.json").read_text())["request"]
    assert [region["kind"] for region in asked["regions"]] == ["text"]
    (failure,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (failure["line"], "no text was found over the video" in failure["why"]) == ("bare", True)
