"""The job as a user runs it: shards others can read, every input accounted for, bad input named, nothing lost."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from jobs import curate
from skyreels.media.encode import write_flac, write_video
from skyreels.storage import Storage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVERYTHING = Path(__file__).with_name("everything.yaml")


@pytest.fixture
def copied(curated, tmp_path):
    return Path(shutil.copytree(curated, tmp_path / "copy"))


def _curate(world, output, *words):
    recipe = [] if "--recipe" in words else ["--recipe", str(EVERYTHING)]
    return curate.main(["--input", str(world), "--output", str(output), "--no-tracking", "--quiet", *recipe, *words])


def _dataset(output, name="default"):
    folder = Path(output) / "datasets" / name
    return pq.read_table(folder / "manifest.parquet").to_pylist(), pq.read_table(folder / "rejects.parquet").to_pylist()


def _shards(output, name="default"):
    return sorted(str(path) for path in (Path(output) / "datasets" / name / "shards").rglob("*.tar"))


def test_webdataset_reads_every_sample_of_the_manifest(curated):
    manifest, _ = _dataset(curated)
    samples = {s["__key__"]: s for s in wds.WebDataset(_shards(curated), shardshuffle=False)}
    assert sorted(samples) == [row["key"] for row in manifest]
    films = [row for row in manifest if row["kind"] == "video" and row["has_audio"]]
    assert films
    for row in films:
        assert {"mp4", "flac", "json"} <= samples[row["key"]].keys()
        described = json.loads(samples[row["key"]]["json"])
        assert described["source"]["source_id"] == row["source_id"]
        assert described["source"]["uri"] == Path(row["uri"]).name
        assert described["captions"]["caption_source"] == "user"
        assert _is_of_one_shot(described, Path(row["uri"]).with_suffix(".json"))


def _is_of_one_shot(described, annotation):
    """Whether all three captions tell the subjects of the shot that a clip was cut from, and of no other."""
    film = json.loads(annotation.read_text("utf-8"))
    middle = (described["source"]["start_s"] + described["source"]["end_s"]) / 2 * float(Fraction(film["fps"]))
    number = next(n for n, shot in enumerate(film["shots"]) if shot["first_frame"] <= middle < shot["end_frame"])
    full = ("colour", "material", "shape")
    for form, words in {"short": ("colour", "shape"), "long": full, "structured": full}.items():
        told = described["captions"][form].lower()
        names = [{" ".join(s[word] for word in words) for s in shot["scene"]["subjects"]} for shot in film["shots"]]
        others = set().union(*names) - names[number]
        if not all(name in told for name in names[number]) or any(name in told for name in others):
            return False
    return True


def test_ray_data_reads_the_shards(curated):
    import ray

    manifest, _ = _dataset(curated)
    rows = ray.data.read_webdataset(_shards(curated), decoder=False).select_columns(["__key__"]).take_all()
    assert sorted(row["__key__"] for row in rows) == [row["key"] for row in manifest]


def test_decord_reads_a_normalised_clip_of_the_length_the_sample_says(curated, tmp_path):
    from decord import VideoReader

    sample = next(s for s in wds.WebDataset(_shards(curated), shardshuffle=False) if "mp4" in s)
    (tmp_path / "clip.mp4").write_bytes(sample["mp4"])
    described = json.loads(sample["json"])
    reader = VideoReader(str(tmp_path / "clip.mp4"))
    assert len(reader) == described["frames"]
    assert reader[0].shape[:2] == (described["height"], described["width"])
    assert reader.get_avg_fps() == pytest.approx(described["fps"], rel=1e-3)


def test_sound_and_picture_of_a_clip_end_together(curated, tmp_path):
    import soundfile

    for sample in wds.WebDataset(_shards(curated), shardshuffle=False):
        if "mp4" in sample and "flac" in sample:
            described = json.loads(sample["json"])
            (tmp_path / "a.flac").write_bytes(sample["flac"])
            frames = soundfile.info(tmp_path / "a.flac").frames
            assert frames == round(described["frames"] / described["fps"] * 44_100)


def test_every_input_is_in_the_manifest_or_in_the_rejects(curated, small_world):
    manifest, rejects = _dataset(curated)
    accounted = {row["uri"] for row in manifest} | {row["uri"] for row in rejects}
    assert accounted == {str(p) for p in small_world.iterdir() if p.suffix not in (".json", ".jsonl")}
    assert all(row["stage"] and row["reason"] and row["remedy"] for row in rejects)


def test_the_report_is_one_file_with_playing_clips(curated):
    page = (curated / "datasets" / "default" / "report.html").read_text()
    assert "data:video/mp4;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_words_and_files_that_changed_in_place_are_brought_up_to_date(ray_cluster, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, seed in (("kept", 1), ("told", 2), ("other", 3)):
        _film(folder / f"{name}.mp4", seed=seed)
        (folder / f"{name}.txt").write_text(f"the film called {name}")
    assert _curate(folder, output, "shards.pack_bytes=1") == 0
    before = {Path(row["uri"]).stem: row for row in _dataset(output)[0]}
    films = {s["__key__"]: s["mp4"] for s in wds.WebDataset(_shards(output), shardshuffle=False)}
    assert {name: row["caption_long"] for name, row in before.items()} == {
        name: f"the film called {name}" for name in ("kept", "told", "other")
    }
    (folder / "told.txt").write_text("new words")
    _film(folder / "other.mp4", seed=4)
    assert _curate(folder, output, "shards.pack_bytes=1") == 0
    after = {Path(row["uri"]).stem: row for row in _dataset(output)[0]}
    assert after["kept"] == before["kept"]
    assert (after["told"]["caption_long"], after["told"]["sha256"]) == ("new words", before["told"]["sha256"])
    assert after["other"]["sha256"] == hashlib.sha256((folder / "other.mp4").read_bytes()).hexdigest()
    samples = {s["__key__"]: s for s in wds.WebDataset(_shards(output), shardshuffle=False)}
    assert sorted(samples) == sorted(row["key"] for row in after.values())
    for name, row in after.items():
        described = json.loads(samples[row["key"]]["json"])
        assert described["captions"]["long"] == row["caption_long"]
        assert (described["source"]["sha256"] == before[name]["sha256"]) is (name != "other")
        assert (samples[row["key"]]["mp4"] == films[row["key"]]) is (name != "other")


def test_running_again_changes_nothing_and_new_files_touch_only_new_shards(copied, small_world, tmp_path):
    before = {path: Path(path).read_bytes() for path in _shards(copied)}
    page = copied / "datasets" / "default" / "report.html"
    made = page.stat().st_mtime_ns
    assert _curate(small_world, copied) == 0
    assert page.stat().st_mtime_ns == made
    more = tmp_path / "more"
    more.mkdir()
    _film(more / "new.mp4", seed=99)
    assert _curate(more, copied) == 0
    after = {path: Path(path).read_bytes() for path in _shards(copied)}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_refilter_makes_another_dataset_without_decoding(ray_cluster, tmp_path):
    """Of sources that are no longer there."""
    world, output = tmp_path / "in", tmp_path / "out"
    world.mkdir()
    _film(world / "film.mp4", seed=1)
    _picture(world / "picture.png")
    assert _curate(world, output) == 0
    before = _dataset(output)
    assert {row["kind"] for row in before[0]} == {"image", "video"}
    shutil.rmtree(world)
    recipe = tmp_path / "strict.yaml"
    recipe.write_text("name: strict\nfilters: {bright: {score: visual.luma_mean, min: 1000, kinds: [video]}}\n")
    assert curate.main(["refilter", "--output", str(output), "--recipe", str(recipe), "--quiet"]) == 0
    manifest, rejects = _dataset(output, "strict")
    assert [row["kind"] for row in manifest] == ["image"]
    assert {row["reason"] for row in rejects if row["stage"] == "filter"} == {"basic:visual.luma_mean"}
    assert _dataset(output) == before


def test_a_dataset_without_a_sample_is_an_error_that_names_the_rule(copied, tmp_path, capsys):
    recipe = tmp_path / "none.yaml"
    recipe.write_text("name: none\nfilters: {long: {score: seconds, min: 1000}}\n")
    assert curate.main(["refilter", "--output", str(copied), "--recipe", str(recipe), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "error: nothing was kept: filter:basic:seconds took most" in said
    assert "change this rule in the recipe" in said


def test_a_pool_that_was_planned_and_never_read_is_an_error_that_says_so(copied, capsys):
    shutil.rmtree(copied / "pool" / "_commits")
    assert curate.main(["refilter", "--output", str(copied), "--recipe", str(EVERYTHING), "--quiet"]) == 1
    assert "nothing was kept: no source that was planned has been read yet" in capsys.readouterr().err


def test_inputs_without_media_are_an_error_that_says_what_was_seen(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("x")
    assert _curate(tmp_path / "in", tmp_path / "out") == 1
    assert "nothing to curate: no media in" in (said := capsys.readouterr().err)
    assert "1 .txt" in said
    assert curate.main(["--output", str(tmp_path / "new"), "--replay-rejects", "--no-tracking"]) == 1
    assert "nothing to curate" in capsys.readouterr().err


def test_takedown_removes_every_trace_and_it_never_comes_back(copied, small_world):
    manifest, _ = _dataset(copied)
    victim = next(row for row in manifest if row["kind"] == "video")
    assert curate.main(["takedown", "--output", str(copied), "--source", victim["uri"], "--quiet"]) == 0
    for _ in range(2):
        kept = [row["key"] for row in _dataset(copied)[0]]
        assert victim["key"] not in kept
        for path in copied.rglob("*.tar"):
            assert victim["source_id"].encode() not in path.read_bytes()
        assert _curate(small_world, copied) == 0
    others = {row["key"] for row in manifest if row["uri"] != victim["uri"]}
    assert others <= set(kept)


def test_the_dry_run_prints_a_plan_and_writes_nothing(small_world, tmp_path, capsys):
    assert _curate(small_world, tmp_path / "out", "--dry-run") == 0
    assert "parts" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "/nope", "--output", "{out}"], "/nope does not exist"),
        (["--input", "{out}", "--output", "{out}", "--recipe", "defualt"], "did you mean 'default'"),
        (["--input", "{out}", "--output", "{out}", "extract.segmnts.max_s=9"], "did you mean 'segments'"),
        (["refilter", "--output", "{out}"], "has no pool"),
        (["--input", "{out}/pool/x", "--output", "{out}"], "is part of what --output"),
        (["--input", "{out}", "--output", "/dev/null/x"], "is a file, or lies below one: give a folder as --output"),
    ],
)
def test_mistakes_are_answered_with_what_would_be_right(tmp_path, capsys, words, message):
    assert curate.main([word.format(out=tmp_path) for word in words]) == 1
    assert message in capsys.readouterr().err


def test_bad_files_cost_one_row_each_and_their_neighbours_nothing(ray_cluster, tmp_path):
    expected = _bad_inputs(tmp_path / "in")
    assert _curate(tmp_path / "in", tmp_path / "out") == 0
    manifest, rejects = _dataset(tmp_path / "out")
    kept = {Path(row["uri"]).name for row in manifest}
    why = {}
    for row in rejects:
        why.setdefault(Path(row["uri"]).name, set()).add(row["reason"])
    assert {"good-too.mp4", "no-sound.mp4", "odd.name with (spaces) & 'ü'.mp4", "picture.mp4"} <= kept
    for name, reason in expected.items():
        assert why.pop(name) == {reason}, name
    first, second = tmp_path / "in" / "good.mp4", tmp_path / "in" / "the-same.mp4"
    twins = [row for row in rejects if row["uri"] in (str(first), str(second))]
    assert [row["reason"] for row in twins] == ["exact"]
    assert {str(first), str(second)} - {twins[0]["uri"]} <= {row["uri"] for row in manifest}
    assert str(tmp_path / "in" / "twin" / "good.mp4") in {row["uri"] for row in manifest}


def test_a_full_disk_fails_its_parts_and_the_next_run_finishes(ray_cluster, small_disk, tmp_path, capsys):
    world = tmp_path / "in"
    world.mkdir()
    for index in range(3):
        _film(world / f"{index}.mp4", seed=index, size=(320, 240), seconds=4)
    settings = ["extract.parts.max_sources=1", "extract.cut.crf=0"]
    assert _curate(world, small_disk / "out", *settings) == 1
    said = capsys.readouterr().err
    assert "disk_full" in said
    assert "run the same command again" in said
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert _curate(world, small_disk / "out", *settings) == 0
    assert _curate(world, tmp_path / "other", *settings) == 0
    assert _names(small_disk / "out") == _names(tmp_path / "other")


def test_replay_tries_failed_sources_again(ray_cluster, tmp_path):
    world = tmp_path / "in"
    world.mkdir()
    _film(world / "a.mp4", seed=1)
    whole = (world / "a.mp4").read_bytes()
    (world / "a.mp4").write_bytes(b"\0" * len(whole))
    written = (world / "a.mp4").stat()
    _film(world / "b.mp4", seed=2)
    assert _curate(world, tmp_path / "out") == 0
    assert [Path(row["uri"]).name for row in _dataset(tmp_path / "out")[0]] == ["b.mp4"]
    (world / "a.mp4").write_bytes(whole)
    os.utime(world / "a.mp4", ns=(written.st_atime_ns, written.st_mtime_ns))  # neither size nor time tells
    assert _curate(world, tmp_path / "out") == 0
    assert len(_dataset(tmp_path / "out")[0]) == 1
    assert _curate(world, tmp_path / "out", "--replay-rejects") == 0
    manifest, rejects = _dataset(tmp_path / "out")
    assert sorted(Path(row["uri"]).name for row in manifest) == ["a.mp4", "b.mp4"]
    assert rejects == []


def test_inputs_and_outputs_on_s3(ray_cluster, s3_root, tmp_path):
    _film(tmp_path / "a.mp4", seed=1)
    Storage(s3_root).upload(tmp_path / "a.mp4", "raw/a.mp4")
    assert _curate(f"{s3_root}/raw", f"{s3_root}/data") == 0
    assert Storage(s3_root).exists("data/datasets/default/manifest.parquet")
    assert any(name.endswith(".tar") for name in Storage(s3_root).names("data/datasets/default/shards"))


def test_help_teaches():
    command = [sys.executable, "-X", "importtime", curate.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "refilter" in done.stdout
    assert "key=value" in done.stdout
    assert "--replay-rejects" in done.stdout, "options of the default command"
    slow = ("scipy.signal", "scipy.stats", "torch", "mlflow", "matplotlib")  # a second or two of every start
    assert "skyreels" in done.stderr
    assert [name for name in slow if re.search(rf"\| +{name}$", done.stderr, re.MULTILINE)] == []


def _names(output):
    return sorted(str(path.relative_to(output)) for path in Path(output).rglob("*.tar"))


def _film(path, seed, size=(160, 120), seconds=3.0, sound=True):
    """A textured picture that drifts, with a tone: nothing that a filter would mind."""
    rng = np.random.default_rng(seed)
    width, height = size
    canvas = rng.integers(40, 220, (height // 8 + 8, width // 8 + 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = (canvas[:height, i : i + width] for i in range(int(seconds * 24)))
    t = np.arange(int(seconds * 44_100)) / 44_100
    tone = (0.3 * np.sin(2 * np.pi * (220 + 110 * seed) * t) * (1 + np.sin(2 * np.pi * 2 * t)) / 2)[None]
    write_video(path, frames, Fraction(24), audio=tone.astype(np.float32) if sound else None)


def _picture(path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)).save(path)


def _bad_inputs(folder):
    """Write good and bad files; returns why each bad one is turned away."""
    folder.mkdir()
    _film(folder / "good.mp4", 1)
    whole = (folder / "good.mp4").read_bytes()
    _film(folder / "good-too.mp4", 2)
    _film(folder / "no-sound.mp4", 3, sound=False)
    _film(folder / "odd.name with (spaces) & 'ü'.mp4", 4)
    (folder / "twin").mkdir()
    _film(folder / "twin" / "good.mp4", 5)
    _picture(folder / "p.png")
    (folder / "p.png").rename(folder / "picture.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(os.urandom(5000))
    (folder / "text.mp4").write_text("hello")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:3,\ngood.mp4\n#EXT-X-ENDLIST\n")
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (folder / "header-only.mp4").write_bytes(whole[:2000])
    (folder / "the-same.mp4").write_bytes(whole)
    (folder / "list.jsonl").write_text('{"path": "gone.mp4"}\n')
    write_flac(folder / "silence.flac", np.zeros((1, 10), np.float32), 44_100)
    return {
        "empty.mp4": "empty_file",
        "noise.mp4": "unknown_container",
        "text.mp4": "playlist_refused",
        "playlist.mp4": "playlist_refused",
        "concat.mp4": "playlist_refused",
        "header-only.mp4": "zero_length_stream",
        "silence.flac": "too_short",
    }
