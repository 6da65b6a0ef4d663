"""Caches that no stage refers to are listed, and removed only where that is asked for."""

import hashlib
import json

import pytest

from jobs import cache as command
from model.config import load_preset
from pipelines.training.curriculum.order import Curriculum, CurriculumError
from pipelines.training.latents.components import Identities
from pipelines.training.latents.index import CacheRecord
from pipelines.training.latents.spec import LatentSpec
from pipelines.training.stages.prune import find_caches, remove
from pipelines.training.stages.run_record import RunRecord, note_run, read_run
from skyreels.config import ConfigError


def write_cache(runs, name, finished=True, size=2000):
    folder = runs / "latents" / name
    for file in ("_commits/part.json", "shards/image/part-00000.tar", "shards/image/.tmp-1"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x" * size)
    record = CacheRecord(
        spec=LatentSpec(),
        identities=Identities(video_codec="v", audio_codec="a", encoder="e"),
        video={},
        audio={},
        data="d",
        command="c",
        samples=1,
        rejected=0,
        fingerprint=f"print-{name}",
        index="",
    )
    if finished:
        (folder / "cache.json").write_text(record.model_dump_json())


@pytest.fixture
def runs(tmp_path):
    """Caches of a finished stage, a begun one, an older version's finished one, none, and one that is being made."""
    for name in ("done-1", "begun-1", "begun-2", "older-1", "idle-1"):
        write_cache(tmp_path, name)
    write_cache(tmp_path, "making-1", finished=False)
    curriculum = Curriculum(str(tmp_path), load_preset("tiny"))
    note_run(tmp_path / "codecs", caches={})
    curriculum.mark_finished("codecs", step=1, export="", data="0")
    note_run(tmp_path / "video-1", caches={"images": "done-1"})
    curriculum.mark_finished("video-1", step=1, export="", data="print-done-1", datasets={"images": "print-done-1"})
    note_run(tmp_path / "video-2", caches={"images": "begun-1", "clips": "begun-2"})
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "run.json").write_text(json.dumps({"mlflow_run": "abc"}))
    curriculum.mark_finished("audio", step=1, export="", data="print-older-1")
    return tmp_path


def left(runs):
    return sorted(path.name for path in (runs / "latents").iterdir())


def test_which_stages_refer_to_a_cache(runs):
    found = {cache.name: cache for cache in find_caches(runs)}
    assert {name: cache.stages for name, cache in found.items()} == {
        "done-1": ("video-1",),
        "begun-1": ("video-2",),
        "begun-2": ("video-2",),
        "older-1": ("audio",),
        "idle-1": (),
        "making-1": (),
    }
    assert [name for name, cache in found.items() if not cache.finished] == ["making-1"]
    assert found["making-1"].size == 3 * 2000


def test_nothing_is_removed_unless_asked_and_then_only_what_none_refers_to(runs, capsys):
    before = left(runs)
    assert command.main(["--output", str(runs), "--prune"]) == 0
    said = capsys.readouterr().out
    assert left(runs) == before
    assert "idle-1  unused\n" in said
    assert "begun-2  read by video-2\n" in said
    assert "1 of 6 caches" in said
    assert command.main(["--output", str(runs), "--prune", "--remove"]) == 0
    assert "removed 1 of 6 caches" in capsys.readouterr().out
    assert left(runs) == ["begun-1", "begun-2", "done-1", "making-1", "older-1"]
    assert command.main(["--output", str(runs), "--prune", "--remove", "--unfinished"]) == 0
    assert left(runs) == ["begun-1", "begun-2", "done-1", "older-1"]


def test_the_flags_that_remove_go_with_prune(runs):
    with pytest.raises(SystemExit):
        command.main(["--output", str(runs), "--remove"])


def test_a_stage_that_was_begun_since_the_listing_keeps_its_cache(runs):
    (idle,) = (cache for cache in find_caches(runs) if cache.name == "idle-1")
    note_run(runs / "joint", caches={"default": "idle-1"})
    with pytest.raises(ValueError, match="idle-1 is read by joint: it stays"):
        remove(idle)
    assert "idle-1" in left(runs)


def test_where_a_stage_does_not_say_what_it_reads_nothing_is_removed(runs, capsys):
    (runs / "joint" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CurriculumError, match="joint was begun and does not say which caches it reads"):
        find_caches(runs)
    before = left(runs)
    assert command.main(["--output", str(runs), "--prune", "--remove"]) == 1
    assert "joint was begun" in capsys.readouterr().err
    assert left(runs) == before


def test_a_removal_that_is_cut_short_leaves_no_cache_that_looks_finished(runs, monkeypatch):
    (idle,) = (cache for cache in find_caches(runs) if cache.name == "idle-1")

    def killed(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.training.stages.prune.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(idle)
    (idle,) = (cache for cache in find_caches(runs) if cache.name == "idle-1")
    assert not idle.finished


def test_folders_that_cannot_be_pruned(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the output folder"):
        find_caches(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="local folders alone"):
        find_caches("s3://bucket/runs")
    assert find_caches(tmp_path) == []


def test_notes_of_a_run_are_laid_over_each_other(tmp_path):
    note_run(tmp_path, caches={"a": "a-1"})
    note_run(tmp_path, mlflow_run="abc")
    assert read_run(tmp_path) == RunRecord(mlflow_run="abc", caches={"a": "a-1"})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is no record of a run"):
        read_run(tmp_path)


def test_records_from_before_datasets_were_named_keep_their_digest(tmp_path):
    curriculum = Curriculum(str(tmp_path), load_preset("tiny"))
    older = curriculum.mark_finished("codecs", step=1, export="", data="0")
    assert older.model_copy(update={"datasets": {"a": "1"}}).digest != older.digest
    values = older.model_dump(mode="json")
    for later in ("datasets", "held_out", "exported"):
        values.pop(later)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert older.digest == hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
