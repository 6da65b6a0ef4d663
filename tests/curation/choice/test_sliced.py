"""Selection over slices decides as `select` does on all rows, whatever is kept, killed or damaged meanwhile."""

import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.curation.choice.selection import select
from pipelines.curation.choice.sliced import Choosing, decisions_of, select_slices
from pipelines.curation.pool import tables
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Clip, Kind
from pipelines.dataset.exchange import Steps, write
from pipelines.dataset.tables import encode
from skyreels.storage import DamageError, Storage

RECIPE = {
    "filters": {"sharp": {"score": "visual.sharpness", "min": 0.2, "kinds": ["video", "image"]}},
    "dedup": {"semantic_cosine": 0.95, "perceptual_share": 0.5},
    "balance": {"enabled": True, "concepts": 3, "temper": 0.5},
}


def _clips(seed, count):
    """Clips of which many share bytes, frames or meaning with others, of all kinds."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 2**63, (12, 3), dtype=np.uint64)
    meanings = random.normal(size=(8, 6))
    found = []
    for i in range(count):
        kind = [Kind.VIDEO, Kind.IMAGE, Kind.AUDIO][random.choice(3, p=[0.6, 0.3, 0.1])]
        noise = np.uint64(1) << random.integers(0, 64, 3, dtype=np.uint64)
        hashes = frames[random.integers(len(frames))] ^ noise if random.random() < 0.5 else random.integers(0, 2**63, 3)
        vector = meanings[random.integers(len(meanings))] + random.normal(size=6) * random.choice([0.05, 0.6])
        source = f"s{random.integers(count):04d}"
        clip = Clip(key=f"{source}_{i:05d}", source_id=source, kind=kind, end_s=4.0, width=640, height=360, frames=96)
        row = tables.clip_rows("part", [clip], {})[0]
        found.append(row | {
            "sha256": f"b{random.integers(count)}" if random.random() < 0.9 else "",
            "hashes": [int(h) for h in hashes][: 1 if kind is Kind.IMAGE else 3],
            "embedding": None if kind is Kind.AUDIO or random.random() < 0.1 else vector.astype(np.float32).tolist(),
            "visual.sharpness": float(random.choice([0.1, 0.3, 0.5, 0.5])),
            "visual.camera": str(random.choice(["static", "pan_left", "pan_right"])),
            "visual.object_motion": float(random.choice([0.0, 0.05])),
            "audio.class": str(random.choice(["music", "speech"])),
        })  # fmt: skip
    return sorted(found, key=lambda row: row["key"])


def _sliced(folder, clips, slices, choosing, between=lambda store: None):
    store = Storage(str(folder))
    edges = np.linspace(0, len(clips), slices + 1).round().astype(int)
    for index in range(slices):
        write(store, f"rows/{index:06d}", tables.clip_table(clips[edges[index] : edges[index + 1]]))
    between(store)
    step = select_slices(Steps(store), "rows", slices, choosing)
    return {key: why for index in range(slices) for key, why in decisions_of(store, index, step).items()}


def _between(keys):
    return lambda first, last: frozenset(key for key in keys if first <= key <= last)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(2, 120), st.integers(1, 7), st.booleans(), st.booleans(), st.booleans())
def test_slices_decide_as_one(tmp_path_factory, seed, count, slices, within_source, grown, few):
    """Also where few pairs are grouped, and few clips decided, in one task."""
    recipe = Recipe.model_validate(RECIPE | {"dedup": RECIPE["dedup"] | {"within_source": within_source}})
    clips = _clips(seed, count)
    before = frozenset(row["key"] for row in clips[::3]) if grown else frozenset()
    taken = frozenset({clips[0]["source_id"]})
    expected = select(clips, recipe, before, taken)
    choosing = Choosing(recipe, _between(before), taken, ())
    with pytest.MonkeyPatch.context() as patch:
        if few:
            patch.setattr("pipelines.curation.choice.groups._PER_TASK", 60)
            patch.setattr("pipelines.curation.choice.matching.DECIDED_AT_ONCE", 9)
        folder = tmp_path_factory.mktemp("slices")
        assert _sliced(folder, clips, slices, choosing) == expected
    assert not few or count < 100 or slices == 1 or len(list(folder.glob("descend/*.parquet"))) > 1


def test_in_cells_of_meaning_what_is_found_is_alike_and_little_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.curation.choice.matching._CELL", 25)
    recipe = Recipe.model_validate(RECIPE | {"balance": {"enabled": False}})
    clips = _clips(7, 150)
    at_once = select(clips, recipe)
    found = _sliced(tmp_path, clips, 4, Choosing(recipe, _between(()), frozenset(), ()))
    vectors = {clip["key"]: np.array(clip["embedding"]) for clip in clips if clip["embedding"]}
    alike = [key for key, why in found.items() if why and why.reason == "semantic"]
    for key in alike:
        a, b = vectors[key], vectors[found[key].detail.split()[1]]
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.95 - 1e-5
    assert len(alike) >= 0.9 * sum(bool(why and why.reason == "semantic") for why in at_once.values()) > 10


def test_clips_of_other_datasets_do_not_come_back(tmp_path):
    recipe = Recipe.model_validate(RECIPE)
    clips, stores = _clips(3, 60), []
    for name, rows in (("a", clips[:12]), ("b", clips[6:20])):
        store = Storage(str(tmp_path / name))
        store.write("manifest.parquet", encode(tables.clip_table(rows)))
        stores.append(store)
    theirs = list({row["key"]: row for row in (*clips[:12], *clips[6:20])}.values())
    expected = select(clips[10:], recipe, frozenset(), frozenset(), theirs)
    found = _sliced(tmp_path / "slices", clips[10:], 3, Choosing(recipe, _between(()), frozenset(), stores))
    assert found == expected
    assert any(why and "elsewhere:" in why.detail for why in found.values())


@pytest.mark.parametrize("damaged", ["meet/contents", "meet/vectors", "traits", "frames", "groups", "left", "crowd"])
def test_a_damaged_file_is_told_and_made_anew(tmp_path, damaged, monkeypatch):
    """As a run finds it that was killed right after the step that wrote it."""
    monkeypatch.setattr("pipelines.curation.choice.groups._PER_TASK", 20)
    recipe = Recipe.model_validate(RECIPE)
    clips, choosing = _clips(4, 60), Choosing(Recipe.model_validate(RECIPE), _between(()), frozenset(), ())
    expected = select(clips, recipe)
    assert _sliced(tmp_path, clips, 2, choosing) == expected
    undisturbed = _hashes(tmp_path)
    target = tmp_path / damaged / "000001.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 3] ^= 0xFF
    target.write_bytes(bytes(data))
    done = _STEPS[: _STEPS.index(damaged.partition("/")[0]) + 1]
    for name in tmp_path.glob("*/*.json"):
        if name.parent.name not in done:
            name.unlink()
    steps = Steps(Storage(str(tmp_path)))
    with pytest.raises(DamageError, match="made anew"):
        select_slices(steps, "rows", 2, choosing)
    select_slices(steps, "rows", 2, choosing)
    assert _hashes(tmp_path) == undisturbed


_STEPS = [
    "traits",
    "count",
    "meet",
    "frames",
    "meaning",
    "pairs",
    "large-00",
    "small-00",
    "groups",
    "involved",
    "descend",
    "duplicates",
    "left",
    "crowd",
]


def _hashes(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.parquet")}  # fmt: skip


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    clips = _clips(5, 20)
    with pytest.raises(ValueError, match=f"{clips[0]['key']} occurs twice"):
        choosing = Choosing(Recipe.model_validate(RECIPE), _between(()), frozenset(), ())
        _sliced(tmp_path, [clips[0], *clips], 2, choosing)


def test_embeddings_of_two_backends_are_refused(tmp_path):
    clips = _clips(6, 30)
    clips[0] |= {"kind": "video", "embedding": [1.0, 0.0], "visual.sharpness": 0.5}
    with pytest.raises(ValueError, match="embed all clips with one backend"):
        _sliced(tmp_path, clips, 3, Choosing(Recipe.model_validate(RECIPE), _between(()), frozenset(), ()))
