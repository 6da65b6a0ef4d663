"""Which stages are to run, and the errors of a ladder that is climbed in the wrong order or with another preset."""

import dataclasses

import pytest

from model.config import load_preset
from pipelines.training.curriculum.ladder import Ladder, LadderError, preset_digest
from pipelines.training.curriculum.recipe import STAGES, load_recipe
from skyreels.config import ConfigError

VIDEO = tuple(f"video-{number}" for number in range(1, 7))


@pytest.fixture
def ladder(tmp_path):
    return Ladder(str(tmp_path), load_preset("tiny"))


def finish(ladder, *stages):
    for stage in stages:
        ladder.mark_finished(stage, step=10, export=f"{ladder.output}/{stage}/export", data="d" * 16, git_sha="abc")


def test_a_stage_needs_all_before_it_in_order(ladder):
    assert ladder.plan("sft") == ("codecs", *VIDEO, "audio", "joint", "sft-1", "sft-2")
    assert ladder.plan("all") == STAGES
    assert ladder.plan("audio") == ("codecs", "audio")
    assert ladder.plan("video") == ("codecs", *VIDEO)
    assert ladder.plan("codecs") == ("codecs",)


def test_finished_stages_are_not_run_again_unless_asked(ladder):
    finish(ladder, "codecs", *VIDEO, "audio")
    assert ladder.plan("sft") == ("joint", "sft-1", "sft-2")
    assert ladder.plan("video-6") == ()
    assert ladder.plan("video-6", again=True) == ("video-6",)
    finish(ladder, "joint", "sft-1", "sft-2")
    assert ladder.plan("sft") == ()
    assert ladder.plan("sft", again=True) == ("sft-1", "sft-2")


def test_a_stage_starts_from_the_best_of_what_is_finished(ladder):
    finish(ladder, "codecs", *VIDEO, "audio", "joint")
    assert ladder.plan("keyframes") == ("keyframes",)
    assert set(ladder.parents("keyframes")) == {"codecs", "joint"}
    finish(ladder, "sft-1")
    assert set(ladder.parents("keyframes")) == {"codecs", "sft-1"}
    assert set(ladder.parents("refiner")) == {"codecs", "sft-1"}
    assert set(ladder.parents("joint")) == {"codecs", "video-6", "audio"}
    assert list(ladder.parents("video-1")) == ["codecs"]


def test_without_anything_finished_the_best_alternative_is_climbed_to(ladder):
    assert ladder.plan("keyframes")[-2:] == ("sft-2", "keyframes")


def test_a_record_says_what_was_trained_from_what(ladder):
    finish(ladder, "codecs", "video-1")
    record = ladder.finished("video-1")
    assert (record.stage, record.preset, record.step, record.git_sha) == ("video-1", "tiny", 10, "abc")
    assert record.parents == {"codecs": ladder.finished("codecs").digest}
    assert ladder.finished("video-2") is None


def test_only_runs_the_stage_alone_and_wants_what_is_before_it(ladder):
    with pytest.raises(LadderError, match=r"joint starts from codecs.*no finished codecs.*STAGE=codecs"):
        ladder.plan("joint", only=True)
    finish(ladder, "codecs", "audio")
    with pytest.raises(LadderError, match="joint starts from video-6"):
        ladder.plan("joint", only=True)
    finish(ladder, *VIDEO)
    assert ladder.plan("joint", only=True) == ("joint",)
    with pytest.raises(LadderError, match="sft-1 starts from joint"):
        ladder.plan("sft", only=True)
    finish(ladder, "joint")
    assert ladder.plan("sft", only=True) == ("sft-1", "sft-2")


def test_a_stage_with_no_alternative_finished_names_them_all(ladder):
    finish(ladder, "codecs", "audio")
    with pytest.raises(LadderError, match="keyframes starts from sft-2 or sft-1 or joint"):
        ladder.parents("keyframes")


def test_an_unknown_stage_is_an_error_with_a_suggestion(ladder):
    with pytest.raises(ConfigError, match=r"no stage 'vidoe-3'; did you mean 'video-3'\?"):
        ladder.plan("vidoe-3")


def test_stages_of_another_preset_are_refused(ladder):
    finish(ladder, "codecs")
    other = Ladder(ladder.output, load_preset("small"))
    with pytest.raises(LadderError, match=r"codecs was trained with another preset \(tiny.*small"):
        other.plan("video-1")


def test_a_preset_is_another_when_weights_would_not_fit_and_only_then():
    tiny = load_preset("tiny")
    longer = dataclasses.replace(tiny, sections={**tiny.sections, "training": {"max_seconds": 9}})
    wider = dataclasses.replace(tiny, transformer=dataclasses.replace(tiny.transformer, width=256))
    codec = dataclasses.replace(tiny, sections={**tiny.sections, "audio_codec": {"kind": "oobleck"}})
    assert preset_digest(longer) == preset_digest(tiny)
    assert len({preset_digest(preset) for preset in (tiny, wider, codec)}) == 3


def test_a_stage_whose_parent_was_trained_anew_is_refused(ladder):
    finish(ladder, "codecs", "video-1")
    finish(ladder, "codecs")
    with pytest.raises(LadderError, match=r"video-1 was started from codecs before that was trained anew.*move"):
        ladder.plan("video-2")


def test_a_damaged_record_is_named(ladder, tmp_path):
    finish(ladder, "codecs")
    (tmp_path / "codecs" / "finished.json").write_text("{")
    with pytest.raises(LadderError, match=r"finished\.json is no record"):
        ladder.plan("video-1")


def test_what_a_recipe_says_of_its_start_holds(tmp_path):
    """As with `--set joint.starts_from=...`: a shorter ladder."""
    tiny = load_preset("tiny")
    overrides = ["joint.starts_from=[[video-1], [audio]]"]
    short = Ladder(str(tmp_path), tiny, lambda name: load_recipe(name, tiny, overrides))
    assert short.plan("joint") == ("codecs", "video-1", "audio", "joint")


def test_records_on_s3(s3_root):
    ladder = Ladder(f"{s3_root}/run", load_preset("tiny"))
    finish(ladder, "codecs", "audio")
    assert ladder.plan("audio") == ()
    assert ladder.parents("audio")["codecs"].step == 10


def test_a_record_says_what_the_weights_scored_and_records_from_before_keep_their_digest(ladder):
    losses = {"start": 1.8, "trained": 1.6, "averaged": 1.7}
    made = ladder.mark_finished("codecs", step=1, export="", data="0", held_out=losses, exported="trained")
    assert ladder.finished("codecs") == made
    assert (made.held_out, made.exported) == (losses, "trained")
    before = made.model_copy(update={"held_out": {}, "exported": ""})
    assert before.digest == made.model_validate(before.model_dump(exclude={"held_out", "exported"})).digest
    assert before.digest != made.digest
