"""Every shipped recipe: its rules name scores that exist, its pool is the default's, and it asks for no less."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.audio.scores import audio_scores
from pipelines.curation.filters import Rule, first_broken
from pipelines.curation.pool import cut, measure, tables
from pipelines.curation.recipe import RECIPES, load_recipe
from pipelines.curation.records import Clip, Kind
from pipelines.curation.slices.finish import _shape
from pipelines.curation.visual.prefilter import PrefilterScores
from pipelines.curation.visual.scores import VisualScores
from skyreels.config import ConfigError
from skyreels.media.report import DecodeReport
from skyreels.media.sync import SyncScores

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
WILD = [name for name in NAMES if name != "plain"]
"""For media from anywhere; `plain` is for a rendered world alone, which has a pool of its own and no faults."""
CUT_OTHERWISE = {"fine": {"cut"}, "scenes": {"segments"}}
"""Recipes with a pool of their own, and what of the extraction differs there."""
DEFAULT = load_recipe("default")
CLASSES = ("speech", "singing", "music", "sound_effect")


def _produced():
    """Names of the scores that a clip's row carries when it is chosen."""
    tone = np.sin(np.arange(44_100) * 0.06, dtype=np.float32)[None]
    cut_only = {"decode.repeated_frames"} if "decode.repeated_frames" in cut._cut_video.__code__.co_consts else set()
    return {
        *(f"visual.{name}" for name in VisualScores.model_fields),
        "visual.aesthetic",
        *(f"audio.{name}" for name in audio_scores(tone, 44_100).flat()),
        *(f"sync.{field.name}" for field in fields(SyncScores)),
        *measure._decode_scores(DecodeReport()),
        *cut_only,
        *_row(Clip(key="k", source_id="s", kind=Kind.VIDEO, width=4, height=2, end_s=1.0)),
    }


def _row(clip):
    row = tables.clip_rows("part", [clip], {})[0]
    return row | _shape(row)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_names_a_score_that_is_measured(name):
    produced = _produced()
    recipe = load_recipe(name)
    for label, rule in recipe.filters.items():
        if rule is not None:
            named = {rule.score, *rule.when, *rule.where_above}
            assert named <= produced, f"{name}: {label} names {named - produced}"
    early = {f"prefilter.{field}" for field in PrefilterScores.model_fields} | {"prefilter.has_audio"}
    assert {rule.score for rule in recipe.extract.prefilter.values()} <= early


@pytest.mark.parametrize("name", WILD)
def test_all_share_the_default_s_pool_and_have_a_dataset_of_their_own(name):
    recipe = load_recipe(name)
    found = {field for field, value in recipe.extract if value != getattr(DEFAULT.extract, field)}
    assert found == CUT_OTHERWISE.get(name, set())
    assert (recipe.extract.identity == DEFAULT.extract.identity) == (not found)
    assert recipe.name == name


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is_for(name):
    assert (RECIPES / f"{name}.yaml").read_text().startswith("# ")


def _values(rules):
    """Random rows: each score near the bounds that any recipe gives it, or not measured."""
    bounds = {}
    for rule in rules:
        for bound in (rule.min, rule.max, rule.max_abs):
            if bound is not None:
                bounds.setdefault(rule.score, set()).add(bound)
        for score, bound in rule.where_above.items():
            bounds.setdefault(score, set()).add(bound)
    scores = {
        name: st.none() | st.sampled_from(sorted(near)).flatmap(lambda x: st.floats(x - abs(x) - 1, x + abs(x) + 1))
        for name, near in bounds.items()
    }
    facts = {"audio.class": st.sampled_from(CLASSES), "has_audio": st.booleans(), "kind": st.sampled_from(list(Kind))}
    return st.fixed_dictionaries(scores | facts)


RULES = {name: {k: rule for k, rule in load_recipe(name).filters.items() if rule is not None} for name in NAMES}
ROWS = _values([rule for rules in RULES.values() for rule in rules.values()])


@settings(max_examples=300, deadline=None)
@given(row=ROWS)
def test_a_stage_never_takes_what_the_default_turns_away(row):
    if first_broken(RULES["default"], row["kind"], row) is not None:
        for name in WILD:
            assert first_broken(RULES[name], row["kind"], row) is not None, name


@settings(max_examples=300, deadline=None)
@given(row=ROWS)
def test_later_stages_ask_for_more_than_the_ones_before(row):
    for wide, narrow in (("clips-256", "clips-480"), ("joint", "sft")):
        if first_broken(RULES[wide], row["kind"], row) is not None:
            assert first_broken(RULES[narrow], row["kind"], row) is not None, narrow


GOOD = {
    Kind.VIDEO: {"width": 1920, "height": 1080, "end_s": 8.0, "has_audio": True},
    Kind.IMAGE: {"width": 1024, "height": 768},
    Kind.AUDIO: {"end_s": 8.0, "has_audio": True},
}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("default", {Kind.VIDEO, Kind.IMAGE, Kind.AUDIO}),
        ("images-256", {Kind.IMAGE}),
        ("clips-256", {Kind.VIDEO}),
        ("clips-480", {Kind.VIDEO}),
        ("joint", {Kind.VIDEO, Kind.AUDIO}),
        ("sft", {Kind.VIDEO}),
        ("scenes", {Kind.VIDEO}),
        ("audio", {Kind.AUDIO}),
    ],
)
def test_each_takes_the_kinds_it_is_for(name, wanted):
    rows = {kind: _row(Clip(key="k", source_id="s", kind=kind, **facts)) for kind, facts in GOOD.items()}
    assert {kind for kind, row in rows.items() if first_broken(RULES[name], kind, row) is None} == wanted


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ({"sync.offset_frames": 2.9, "sync.confidence": 9.0, "audio.mean_volume_db": -60.0}, True),
        ({"sync.offset_frames": -3.1, "sync.confidence": 1.6}, False),
        ({"sync.offset_frames": -3.1, "sync.confidence": 1.4}, True),
        ({"audio.mean_volume_db": -60.1}, False),
        ({"audio.class": "speech", "audio.silence_ratio": 0.34}, True),
        ({"audio.class": "speech", "audio.silence_ratio": 0.8}, False),
        ({"has_audio": False}, False),
        ({"short_side": 719}, False),
        ({"seconds": 4.9}, False),
    ],
)
def test_the_joint_gate_is_the_paper_s(scores, kept):
    row = _row(Clip(key="k", source_id="s", kind=Kind.VIDEO, **GOOD[Kind.VIDEO])) | scores
    assert (first_broken(RULES["joint"], Kind.VIDEO, row) is None) is kept


@pytest.mark.parametrize("name", ["default", "clips-256", "clips-480", "joint", "sft"])
@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ({"audio.class": "speech", "audio.silence_ratio": 0.34, "audio.dropout_s": 0.8}, True),  # a conversation
        ({"audio.class": "sound_effect", "audio.silence_ratio": 0.7, "audio.dropout_s": 0.0}, True),  # a door, once
        ({"audio.class": "speech", "audio.silence_ratio": 0.3, "audio.dropout_s": 2.5}, False),  # breaks off
        ({"audio.class": "music", "audio.silence_ratio": 0.8, "audio.dropout_s": 0.0}, False),
        ({"audio.class": "silence", "audio.silence_ratio": 1.0, "audio.dropout_s": 8.0}, True),  # no sound: a picture
    ],
)
def test_clips_may_fall_silent_and_may_not_break_off(name, scores, kept):
    row = _row(Clip(key="k", source_id="s", kind=Kind.VIDEO, **GOOD[Kind.VIDEO])) | scores
    assert (first_broken(RULES[name], Kind.VIDEO, row) is None) is kept


@pytest.mark.parametrize("sound_class", ["speech", "music", "singing", "sound_effect"])
def test_sound_alone_is_held_to_the_paper_s_silence(sound_class):
    row = _row(Clip(key="k", source_id="s", kind=Kind.AUDIO, **GOOD[Kind.AUDIO])) | {"audio.class": sound_class}
    assert first_broken(RULES["joint"], Kind.AUDIO, row | {"audio.silence_ratio": 0.19}) is None
    for name in ("joint", "audio") if sound_class != "sound_effect" else ("joint",):
        assert first_broken(RULES[name], Kind.AUDIO, row | {"audio.silence_ratio": 0.21}) is not None


def test_a_recipe_changes_and_drops_rules_of_another_by_name(tmp_path):
    (tmp_path / "below.yaml").write_text("filters:\n  a: {score: x, min: 1}\n  b: {score: y, max: 2}\n")
    (tmp_path / "mine.yaml").write_text("extends: below.yaml\nname: mine\nfilters:\n  a: {min: 3}\n  b: null\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"), ("filters.c.score=z", "filters.c.max_abs=1"))
    assert recipe.filters == {"a": Rule(score="x", min=3), "b": None, "c": Rule(score="z", max_abs=1)}


def test_a_mistyped_setting_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match="did you mean 'semantic_cosine'"):
        load_recipe("default", ("dedup.semantic_cosin=0.9",))
