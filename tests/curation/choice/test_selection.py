"""Selection: filters, then duplicates, then balance; what was delivered stays; the order of rows means nothing."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.choice import elsewhere
from pipelines.curation.choice.selection import select, with_buckets
from pipelines.curation.pool import tables
from pipelines.curation.recipe import BalanceConfig, DedupConfig, Recipe
from pipelines.curation.records import Clip, Kind, Rejection
from pipelines.dataset.tables import encode
from skyreels.config import ConfigError
from skyreels.storage import Storage

RECIPE = Recipe.model_validate({"filters": {"sharp": {"score": "visual.sharpness", "min": 0.5}}})


def _clip(key, content="", sharpness=0.8, hashes=(), kind=Kind.VIDEO, embedding=None, **changes):
    clip = Clip(key=key, source_id=f"s-{key}", kind=kind, end_s=4.0, width=640, height=360, frames=96, **changes)
    row = tables.clip_rows("part", [clip], {})[0]
    scores = {"visual.sharpness": sharpness, "visual.camera": "static", "visual.object_motion": 0.0}
    return row | scores | {"sha256": content or key, "hashes": list(hashes), "embedding": embedding}


def _kept(decisions):
    return {key for key, why in decisions.items() if why is None}


def test_of_two_duplicates_the_one_that_passes_the_filters_stays():
    better_but_blurred = _clip("a", "same", sharpness=0.4, kind=Kind.VIDEO) | {"width": 1920, "height": 1080}
    decisions = select([better_but_blurred, _clip("b", "same")], RECIPE)
    assert decisions["a"].stage == "filter"
    assert decisions["b"] is None


def test_duplicates_do_not_count_when_cells_are_thinned():
    """Two contents, one of them four times: with duplicates counted, one cell of two would lose its single clip."""
    recipe = RECIPE.model_copy(update={"balance": BalanceConfig(enabled=True, concepts=1, max_per_cell=2, temper=0)})
    clips = [*(_clip(f"a{i}", "same") for i in range(4)), _clip("b")]
    decisions = select(clips, recipe)
    assert len(_kept(decisions)) == 2
    assert "b" in _kept(decisions)
    assert {why.stage for why in decisions.values() if why} == {"dedup"}


def test_crowded_cells_are_thinned_and_say_so():
    recipe = RECIPE.model_copy(update={"balance": BalanceConfig(enabled=True, concepts=1, max_per_cell=2, temper=0)})
    clips = [_clip(f"k{i}", embedding=[1.0, 0.0]) for i in range(5)]
    decisions = select(clips, recipe)
    assert len(_kept(decisions)) == 2
    assert {(why.stage, why.reason) for why in decisions.values() if why} == {("balance", "crowded_cell")}
    before = frozenset({"k3", "k4"})
    assert _kept(select(clips, recipe, before)) == before


def test_what_was_delivered_before_wins_over_a_better_duplicate():
    clips = [_clip("old", "same", 0.6), _clip("new", "same", 0.9)]
    assert _kept(select(clips, RECIPE)) == {"new"}
    assert _kept(select(clips, RECIPE, kept_before=frozenset({"old"}))) == {"old"}


def test_a_clip_that_was_delivered_is_still_filtered():
    decisions = select([_clip("old", sharpness=0.1)], RECIPE, kept_before=frozenset({"old"}))
    assert decisions["old"].reason == "basic:visual.sharpness"


def test_taken_down_sources_are_out_before_anything_else():
    decisions = select([_clip("a", "same", 0.9), _clip("b", "same")], RECIPE, taken_down=frozenset({"s-a"}))
    assert decisions["a"].reason == "taken_down"
    assert decisions["b"] is None


def test_what_could_not_be_cut_keeps_its_reason():
    rejection = Rejection(stage="cut", reason="no_frames", remedy="…", detail="d")
    assert select([_clip("a", rejection=rejection)], RECIPE)["a"] == rejection


@pytest.mark.parametrize("before", [frozenset(), frozenset({"a"})])
def test_a_clip_that_another_dataset_has_stays_out(before):
    decisions = select([_clip("a", "same", 0.99), _clip("b")], RECIPE, kept_before=before - {"a"}, elsewhere=[
        _clip("a", "same", 0.6)
    ])  # fmt: skip
    assert decisions["a"].detail.startswith("repeats elsewhere:a")
    assert decisions["b"] is None


def test_kinds_are_compared_with_their_own():
    hashes = [123456789]
    clips = [_clip("film", hashes=hashes), _clip("still", hashes=hashes, kind=Kind.IMAGE)]
    assert _kept(select(clips, RECIPE)) == {"film", "still"}
    assert select([*clips, _clip("twin", hashes=hashes)], RECIPE)["twin"].reason == "perceptual"


CLIPS = st.lists(
    st.tuples(st.sampled_from(["", "x", "y"]), st.sampled_from([0.3, 0.6, 0.9]), st.sampled_from([0, 0xFF, 2**63])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(CLIPS, st.randoms(use_true_random=False), st.sets(st.integers(0, 7)), st.booleans())
def test_the_order_of_rows_means_nothing(described, random, old, balanced):
    clips = [_clip(f"k{i}", content, sharp, [bits]) for i, (content, sharp, bits) in enumerate(described)]
    config = BalanceConfig(enabled=balanced, concepts=2, max_per_cell=2)
    recipe = RECIPE.model_copy(update={"balance": config})
    before = frozenset(f"k{i}" for i in old)
    shuffled = copy.deepcopy(clips)
    random.shuffle(shuffled)
    first = select(clips, recipe, before)
    assert select(shuffled, recipe, before) == first
    assert {key for key, why in first.items() if why is None or why.stage != "filter"} == {
        clip["key"] for clip in clips if clip["visual.sharpness"] >= 0.5
    }


def test_buckets_are_put_on_rows_without_changing_them():
    clip = _clip("a")
    (row,) = with_buckets([clip], RECIPE)
    assert row["bucket"] == "video-256p-16x9-2s"
    assert "bucket" not in clip


def _dataset(folder, *clips):
    rows = [{name: value for name, value in clip.items() if name != "embedding"} for clip in clips]
    Storage(str(folder)).write("manifest.parquet", encode(tables.clip_table(rows)))


def _against(*locations):
    return RECIPE.model_copy(update={"dedup": DedupConfig(against=tuple(map(str, locations)))})


def test_other_datasets_are_found_by_output_or_by_folder_and_each_clip_once(tmp_path):
    _dataset(tmp_path / "one" / "datasets" / "default", _clip("a", "same"), _clip("b"))
    _dataset(tmp_path / "two", _clip("b"), _clip("c"))
    recipe = _against(tmp_path / "one", tmp_path / "two")
    rows = elsewhere.delivered(recipe, Storage(str(tmp_path / "mine")))
    assert [row["key"] for row in rows] == ["a", "b", "c"]
    decisions = select([_clip("new", "same"), _clip("d")], recipe, elsewhere=rows)
    assert decisions["new"].detail.startswith("repeats elsewhere:a")
    assert decisions["d"] is None


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no finished dataset and has no datasets/default"):
        elsewhere.delivered(_against(tmp_path / "nowhere"), Storage(str(tmp_path)))


@pytest.mark.parametrize("spelling", ["", "datasets/default"])
def test_a_dataset_is_not_compared_with_itself(tmp_path, spelling):
    _dataset(tmp_path / "datasets" / "default", _clip("a"))
    with pytest.raises(ConfigError, match="names the dataset being made"):
        elsewhere.delivered(_against(tmp_path / spelling), Storage(str(tmp_path)))
