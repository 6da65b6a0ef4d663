"""Which stages are to run, and the errors of a curriculum that is run in the wrong order or with another preset."""

import dataclasses

import pytest

from model.config import load_preset
from pipelines.training.curriculum.order import Curriculum, CurriculumError, preset_digest
from pipelines.training.curriculum.recipe import STAGES, load_recipe
from skyreels.config import ConfigError

VIDEO = tuple(f"video-{number}" for number in range(1, 7))


@pytest.fixture
def curriculum(tmp_path):
    return Curriculum(str(tmp_path), load_preset("tiny"))


def finish(curriculum, *stages):
    for stage in stages:
        curriculum.mark_finished(
            stage, step=10, export=f"{curriculum.output}/{stage}/export", data="d" * 16, git_sha="abc"
        )


def test_a_stage_needs_all_before_it_in_order(curriculum):
    assert curriculum.plan("sft") == ("codecs", *VIDEO, "audio", "joint", "sft-1", "sft-2")
    assert curriculum.plan("all") == STAGES
    assert curriculum.plan("audio") == ("codecs", "audio")
    assert curriculum.plan("video") == ("codecs", *VIDEO)
    assert curriculum.plan("codecs") == ("codecs",)


def test_finished_stages_are_not_run_again_unless_asked(curriculum):
    finish(curriculum, "codecs", *VIDEO, "audio")
    assert curriculum.plan("sft") == ("joint", "sft-1", "sft-2")
    assert curriculum.plan("video-6") == ()
    assert curriculum.plan("video-6", again=True) == ("video-6",)
    finish(curriculum, "joint", "sft-1", "sft-2")
    assert curriculum.plan("sft") == ()
    assert curriculum.plan("sft", again=True) == ("sft-1", "sft-2")


def test_a_stage_starts_from_the_best_of_what_is_finished(curriculum):
    finish(curriculum, "codecs", *VIDEO, "audio", "joint")
    assert curriculum.plan("keyframes") == ("keyframes",)
    assert set(curriculum.parents("keyframes")) == {"codecs", "joint"}
    finish(curriculum, "sft-1")
    assert set(curriculum.parents("keyframes")) == {"codecs", "sft-1"}
    assert set(curriculum.parents("refiner")) == {"codecs", "sft-1"}
    assert set(curriculum.parents("joint")) == {"codecs", "video-6", "audio"}
    assert list(curriculum.parents("video-1")) == ["codecs"]


def test_without_anything_finished_the_best_alternative_is_run_first(curriculum):
    assert curriculum.plan("keyframes")[-2:] == ("sft-2", "keyframes")


def test_a_record_says_what_was_trained_from_what(curriculum):
    finish(curriculum, "codecs", "video-1")
    record = curriculum.finished("video-1")
    assert (record.stage, record.preset, record.step, record.git_sha) == ("video-1", "tiny", 10, "abc")
    assert record.parents == {"codecs": curriculum.finished("codecs").digest}
    assert curriculum.finished("video-2") is None


def test_only_runs_the_stage_alone_and_wants_what_is_before_it(curriculum):
    with pytest.raises(CurriculumError, match=r"joint starts from codecs.*no finished codecs.*STAGE=codecs"):
        curriculum.plan("joint", only=True)
    finish(curriculum, "codecs", "audio")
    with pytest.raises(CurriculumError, match="joint starts from video-6"):
        curriculum.plan("joint", only=True)
    finish(curriculum, *VIDEO)
    assert curriculum.plan("joint", only=True) == ("joint",)
    with pytest.raises(CurriculumError, match="sft-1 starts from joint"):
        curriculum.plan("sft", only=True)
    finish(curriculum, "joint")
    assert curriculum.plan("sft", only=True) == ("sft-1", "sft-2")


def test_a_stage_with_no_alternative_finished_names_them_all(curriculum):
    finish(curriculum, "codecs", "audio")
    with pytest.raises(CurriculumError, match="keyframes starts from sft-2 or sft-1 or joint"):
        curriculum.parents("keyframes")


def test_an_unknown_stage_is_an_error_with_a_suggestion(curriculum):
    with pytest.raises(ConfigError, match=r"no stage 'vidoe-3'; did you mean 'video-3'\?"):
        curriculum.plan("vidoe-3")


def test_stages_of_another_preset_are_refused(curriculum):
    finish(curriculum, "codecs")
    other = Curriculum(curriculum.output, load_preset("small"))
    with pytest.raises(CurriculumError, match=r"codecs was trained with another preset \(tiny.*small"):
        other.plan("video-1")


def test_a_preset_is_another_when_weights_would_not_fit_and_only_then():
    tiny = load_preset("tiny")
    longer = dataclasses.replace(tiny, sections={**tiny.sections, "training": {"max_seconds": 9}})
    wider = dataclasses.replace(tiny, transformer=dataclasses.replace(tiny.transformer, width=256))
    codec = dataclasses.replace(tiny, sections={**tiny.sections, "audio_codec": {"kind": "oobleck"}})
    assert preset_digest(longer) == preset_digest(tiny)
    assert len({preset_digest(preset) for preset in (tiny, wider, codec)}) == 3


def test_a_stage_whose_parent_was_trained_anew_is_refused(curriculum):
    finish(curriculum, "codecs", "video-1")
    finish(curriculum, "codecs")
    with pytest.raises(CurriculumError, match=r"video-1 was started from codecs before that was trained anew.*move"):
        curriculum.plan("video-2")


def test_a_damaged_record_is_named(curriculum, tmp_path):
    finish(curriculum, "codecs")
    (tmp_path / "codecs" / "finished.json").write_text("{")
    with pytest.raises(CurriculumError, match=r"finished\.json is no record"):
        curriculum.plan("video-1")


def test_what_a_recipe_says_of_its_start_holds(tmp_path):
    """As with `--set joint.starts_from=...`: a shorter curriculum."""
    tiny = load_preset("tiny")
    overrides = ["joint.starts_from=[[video-1], [audio]]"]
    short = Curriculum(str(tmp_path), tiny, lambda name: load_recipe(name, tiny, overrides))
    assert short.plan("joint") == ("codecs", "video-1", "audio", "joint")


def test_records_on_s3(s3_root):
    curriculum = Curriculum(f"{s3_root}/run", load_preset("tiny"))
    finish(curriculum, "codecs", "audio")
    assert curriculum.plan("audio") == ()
    assert curriculum.parents("audio")["codecs"].step == 10


def test_a_record_says_what_the_weights_scored_and_records_from_before_keep_their_digest(curriculum):
    losses = {"start": 1.8, "trained": 1.6, "averaged": 1.7}
    made = curriculum.mark_finished("codecs", step=1, export="", data="0", held_out=losses, exported="trained")
    assert curriculum.finished("codecs") == made
    assert (made.held_out, made.exported) == (losses, "trained")
    before = made.model_copy(update={"held_out": {}, "exported": ""})
    assert before.digest == made.model_validate(before.model_dump(exclude={"held_out", "exported"})).digest
    assert before.digest != made.digest
