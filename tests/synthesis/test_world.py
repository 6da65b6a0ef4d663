import json
import subprocess
import sys
from collections import Counter

import av
import numpy as np
import pytest
import soundfile

from pipelines.synthesis.__main__ import main
from pipelines.synthesis.world import CYCLE, FAULTS, GROUND_TRUTH_FILES, plan_world, render_entry, render_world

RATE = 44100


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One turn of the world, small."""
    folder = tmp_path_factory.mktemp("world")
    rows = render_world(folder, len(CYCLE), seed=3, size=(96, 96), seconds=4.0)
    return folder, {row["file"]: row for row in rows}


def only(rows, kind):
    return next(row for row in rows.values() if row["kind"] == kind)


def decode(path):
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    return np.stack(pictures), sound


def onsets(sound):
    """Seconds at which 5 ms of sound are 8 times as strong as any 5 ms of the 20 ms before: sudden starts."""
    power = np.square(sound).sum(axis=0)
    step = RATE // 1000
    energy = power[: power.size // step * step].reshape(-1, step).sum(axis=1)
    window = np.convolve(energy, np.ones(5), mode="valid")
    found = [k for k in range(25, window.size) if window[k] > 8 * window[k - 25 : k - 5].max() and window[k] > 0.02]
    return [k / 1000 for n, k in enumerate(found) if n == 0 or k - found[n - 1] > 40]


def test_the_plan_covers_every_kind_and_is_long_enough():
    plan = plan_world(GROUND_TRUTH_FILES, 0)
    assert len(plan) >= 60
    kinds = Counter(entry.kind for entry in plan)
    assert set(FAULTS) < set(kinds)
    assert min(kinds.values()) >= 2
    names = [entry.name for entry in plan]
    assert len(set(names)) == len(names)
    for entry in plan:
        assert entry.original is None or entry.original in names
        assert (entry.original is not None) == ("duplicate" in entry.kind)


def test_truth_has_a_row_for_every_file(world):
    folder, rows = world
    lines = [json.loads(line) for line in (folder / "truth.jsonl").read_text("utf-8").splitlines()]
    assert [line["file"] for line in lines] == list(rows)
    for row in rows.values():
        assert (folder / row["file"]).stat().st_size > 0
        annotation = json.loads((folder / row["annotation"]).read_text("utf-8"))
        assert annotation["file"] == row["file"]
    assert {row["media"] for row in rows.values()} == {"video", "audio", "image"}
    assert {row["audio_class"] for row in rows.values()} == {"speech", "music", "singing", "sfx", None}


def test_an_entry_renders_to_the_same_bytes_anywhere(world, tmp_path):
    folder, rows = world
    for entry in plan_world(len(CYCLE), 3):
        if entry.kind in ("audio-noise", "audio-speech", "near-duplicate-cropped"):
            row = render_entry(entry, tmp_path, size=(96, 96), fps=24, seconds=4.0)
            assert row == rows[row["file"]]
            assert (tmp_path / row["file"]).read_bytes() == (folder / row["file"]).read_bytes()


def test_exact_duplicates_are_exact_and_near_ones_are_near(world):
    folder, rows = world
    exact = only(rows, "exact-duplicate")
    original = folder / exact["duplicate_of"]
    assert (folder / exact["file"]).read_bytes() == original.read_bytes()
    first = decode(original)[0][0].astype(int)
    for kind in ("reencoded", "cropped", "brightened"):
        near = only(rows, f"near-duplicate-{kind}")
        assert near["duplicate_of"] == exact["duplicate_of"]
        assert (folder / near["file"]).read_bytes() != original.read_bytes()
        assert np.corrcoef(first.ravel(), decode(folder / near["file"])[0][0].ravel())[0, 1] > 0.5
    other = decode(folder / rows[list(rows)[6]]["file"])[0][0]
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.5 or other.shape != first.shape


@pytest.mark.parametrize("kind", ["clean-impacts", "av-late", "av-early"])
def test_the_offset_between_picture_and_sound_is_the_planted_one(world, kind):
    folder, rows = world
    row = only(rows, kind)
    annotation = json.loads((folder / row["annotation"]).read_text("utf-8"))
    impacts = [event for event in annotation["audio_events"] if event["kind"] == "sfx"]
    pictures, sound = decode(folder / row["file"])

    heard = onsets(sound)
    expected = [event["start"] + row["av_offset"] for event in impacts]
    expected = [time for time in expected if 0.05 < time < 3.9]
    errors = [min(abs(time - onset) for onset in heard) for time in expected]
    assert len(expected) >= 5
    assert np.median(errors) < 0.003

    # The ball is what differs from the still background; it turns round at floor and walls.
    background = np.median(pictures, axis=0)
    change = np.abs(pictures.astype(float) - background).sum(axis=-1)
    weight = np.where(change > 60, change, 0.0)
    height = (weight.sum(axis=2) @ np.arange(96)) / weight.sum(axis=(1, 2))
    turns = [k for k in range(2, len(height) - 2) if height[k] == height[k - 2 : k + 3].max()]
    for event in impacts:
        if event["details"]["against"] == "floor" and 2 < event["frame"] < len(height) - 3:
            assert min(abs(turn - event["frame"]) for turn in turns) <= 1
    assert (row["av_offset"] > 0) - (row["av_offset"] < 0) == {"clean-impacts": 0, "av-late": 1, "av-early": -1}[kind]


def test_listed_hard_cuts_are_in_the_file(world):
    folder, rows = world
    for row in rows.values():
        if row["kind"] == "cuts":
            pictures, _ = decode(folder / row["file"])
            change = np.abs(np.diff(pictures.astype(int), axis=0)).mean(axis=(1, 2, 3))
            frames = [cut["frame"] for cut in row["cuts"]]
            assert sorted(np.argsort(change)[-len(frames) :] + 1) == frames


def test_clean_clips_are_well_exposed_moving_and_sounding(world):
    folder, rows = world
    for row in rows.values():
        if row["clean"]:
            pictures, sound = decode(folder / row["file"])
            grey = pictures.mean(axis=-1)
            assert 60 < grey.mean() < 190
            assert grey.std(axis=(1, 2)).mean() > 15
            assert np.abs(np.diff(grey, axis=0)).mean() > 0.4
            level = np.sqrt(np.square(sound[0][: sound.shape[1] // 2205 * 2205]).reshape(-1, 2205).mean(axis=1))
            assert (level < 10 ** (-50 / 20)).mean() < (0.6 if row["kind"] == "clean-pauses" else 0.2)
            assert np.abs(sound).max() < 0.99


def test_sound_files_and_images_are_what_they_say(world):
    folder, rows = world
    for row in rows.values():
        if row["media"] == "audio":
            samples, rate = soundfile.read(folder / row["file"])
            assert (rate, samples.shape) == (RATE, (4 * RATE, 2))
    assert (folder / only(rows, "image")["file"]).read_bytes()[1:4] == b"PNG"


def test_the_command_teaches_and_works(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    assert "--films" in help_text
    assert "truth.jsonl" in help_text
    command = [sys.executable, "-m", "pipelines.synthesis", "--output", str(tmp_path), "--films", "2", "--seed", "4"]
    options = ["--size", "64x64", "--seconds", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "truth.jsonl").read_text("utf-8").splitlines()) == 2
    assert "rendering" in done.stderr
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--size", "63x64"])
    assert "even" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [1.0, 2.5])
def test_short_worlds_can_be_planned_whole(seconds, tmp_path):
    for entry in plan_world(2 * len(CYCLE), 3):
        if entry.kind in ("clean-impacts", "av-late", "av-early", "clean-speech"):
            assert render_entry(entry, tmp_path, size=(32, 32), fps=12, seconds=seconds)["kind"] == entry.kind
