"""Layers: asked once, committed by parts, failures asked again, answers never under another clip's key."""

from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.curation.layers import Layer, LayerFailed, checked, fill, read_layer, unanswered
from pipelines.curation.recipe import WorkersConfig
from skyreels.parts import Incomplete
from skyreels.storage import DamageError, Storage

CLIPS = [{"key": f"k{i}", "value": i, "made_of": f"bytes {i}"} for i in range(7)]
WORKERS = WorkersConfig(clips_per_part=3, num_cpus=0.5)


class Doubler:
    """Doubles values; fails for the ones it is told to."""

    def __init__(self, fails=()):
        self._fails = set(fails)

    def __call__(self, clips):
        return [
            {"key": c["key"], "error": "no answer"}
            if c["value"] in self._fails
            else {"key": c["key"], "error": None, "double": 2 * c["value"]}
            for c in clips
        ]


def _layer(fails=(), **changes):
    settings = {"make_worker": Doubler, "arguments": {"fails": fails}, "holds_model": False, **changes}
    return Layer("doubles", {"by": "test"}, lambda clip: clip["value"] != 6, WORKERS, **settings)


def _fill(layer, output):
    return sum(fill(layer, unanswered(layer, CLIPS, output), output))


@pytest.mark.parametrize("holds_model", [False, True])
def test_every_wanted_clip_is_answered_once(ray_cluster, tmp_path, holds_model):
    output = Storage(str(tmp_path))
    layer = _layer(holds_model=holds_model)
    assert _fill(layer, output) == 6
    assert {key: row["double"] for key, row in read_layer(layer, CLIPS, output).items()} == {
        f"k{i}": 2 * i for i in range(6)
    }
    assert unanswered(layer, CLIPS, output) == []


def test_what_failed_is_asked_again_and_only_that(ray_cluster, tmp_path):
    output = Storage(str(tmp_path))
    _fill(_layer(fails=(1, 4)), output)
    assert [clip["key"] for clip in unanswered(_layer(), CLIPS, output)] == ["k1", "k4"]
    assert read_layer(_layer(), CLIPS, output)["k1"]["error"] == "no answer"
    assert _fill(_layer(), output) == 2
    assert read_layer(_layer(), CLIPS, output)["k1"] == {"key": "k1", "error": None, "double": 2}


def test_another_identity_is_another_layer(ray_cluster, tmp_path):
    output = Storage(str(tmp_path))
    _fill(_layer(), output)
    other = Layer("doubles", {"by": "a newer model"}, lambda clip: True, WORKERS, Doubler, holds_model=False)
    assert len(unanswered(other, CLIPS, output)) == len(CLIPS)


class Missing:
    def __init__(self, fails=()):
        raise ValueError("captions.model names /no/model, which is no folder")


class Dying:
    def __init__(self, fails=()):
        pass

    def __call__(self, clips):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize(("worker", "why"), [(Missing, "which is no folder"), (Dying, "out of memory")])
def test_a_model_that_cannot_answer_is_one_sentence(ray_cluster, tmp_path, worker, why):
    with pytest.raises(LayerFailed) as told:
        _fill(_layer(make_worker=worker, holds_model=True), Storage(str(tmp_path)))
    assert why in str(told.value)
    assert "run the same command again" in str(told.value)
    assert "\n" not in str(told.value)


def test_engines_that_stream_commit_what_is_ready(ray_cluster, tmp_path):
    output = Storage(str(tmp_path))

    def stream(clips, rows):
        assert [row["key"] for row in rows] == [f"k{i}" for i in range(6)]
        return clips.map(lambda row: {"key": row["key"], "double": len(row["clip"])})

    layer = _layer(make_worker=None, arguments={}, stream=stream)
    assert _fill(layer, output) == 6
    assert sorted(read_layer(layer, CLIPS, output)) == [f"k{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        ([{"key": "k0"}, {"key": "k1"}], {"k2"}),
        ([{"key": "k0"}, {"key": "k1"}, {"key": "k1"}, {"key": "k2"}], {"k1"}),
        ([{"key": "k2"}, {"key": "k1"}, {"key": "k0"}, {"key": "k9"}], set()),
    ],
)
def test_missing_double_and_foreign_answers_are_errors_not_mixups(answers, lost):
    rows = checked(CLIPS[:3], answers)
    assert [row["key"] for row in rows] == ["k0", "k1", "k2"]
    assert {row["key"] for row in rows if row["error"]} == lost


@pytest.mark.parametrize("streams", [False, True])
def test_a_clip_of_other_bytes_under_the_same_key_is_asked_about_again(ray_cluster, tmp_path, streams):
    output = Storage(str(tmp_path))
    stream = {"make_worker": None, "arguments": {}, "stream": _doubled}
    layer = _layer(**(stream if streams else {}))
    _fill(layer, output)
    changed = [clip | ({"value": 40, "made_of": "other bytes"} if clip["key"] == "k4" else {}) for clip in CLIPS]
    assert [clip["key"] for clip in unanswered(layer, changed, output)] == ["k4"]
    assert "k4" not in read_layer(layer, changed, output)
    assert sum(fill(layer, unanswered(layer, changed, output), output)) == 1
    assert read_layer(layer, changed, output)["k4"]["double"] == 80
    assert read_layer(layer, CLIPS, output)["k4"]["double"] == 8


def _doubled(clips, rows):
    value = {row["key"]: row["value"] for row in rows}
    return clips.map(lambda row: {"key": row["key"], "double": 2 * value[row["key"]]})


def test_a_full_disk_is_told_and_the_next_run_asks_again(ray_cluster, small_disk):
    output, hog = Storage(str(small_disk / "out")), small_disk / "hog"
    with suppress(OSError), hog.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(
        Incomplete, match=r"(?s)2 of 2 parts could not be written to .*doubles.*disk_full.*No space left.*same command"
    ):
        _fill(_layer(), output)
    hog.unlink()
    assert _fill(_layer(), output) == 6
    assert len(read_layer(_layer(), CLIPS, output)) == 6


@pytest.mark.parametrize("damage", ["record", "cut", "gone"])
def test_answers_that_are_not_there_as_committed_are_asked_for_again(ray_cluster, tmp_path, damage):
    output = Storage(str(tmp_path))
    _fill(_layer(), output)
    answers = read_layer(_layer(), CLIPS, output)
    folder = Path(_layer().storage(output).root)
    file = next((folder / ("_commits" if damage == "record" else "parts")).iterdir())
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:-9])
    assert _fill(_layer(), output) == 3
    assert read_layer(_layer(), CLIPS, output) == answers


def test_a_flipped_bit_among_answers_is_told(ray_cluster, tmp_path):
    output = Storage(str(tmp_path))
    _fill(_layer(), output)
    file = next((Path(_layer().storage(output).root) / "parts").iterdir())
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamageError, match=rf"{file.name} differs .*curate\.py verify"):
        read_layer(_layer(), CLIPS, output)
