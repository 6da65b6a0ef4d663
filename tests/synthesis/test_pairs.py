import json
from typing import get_args

import pytest

from pipelines.synthesis.pairs import GLOBAL_EDITS, Choices, EditKind, make_pair, write_pair
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render

FILM = sample_film(21, size=(96, 64), seconds=1.0)


@pytest.mark.parametrize("kind", get_args(EditKind))
@pytest.mark.parametrize("seed", [0, 1])
def test_before_and_after_are_equal_outside_the_mask_and_differ_inside(kind, seed):
    pair = make_pair(FILM, kind, seed)
    before, after = render(pair.before), render(pair.after)
    differ, masked = 0, 0
    for mask, old, new in zip(pair.masks(), before.frames(), after.frames(), strict=True):
        changed = (old != new).any(axis=-1)
        assert not (changed & ~mask).any()
        differ, masked = differ + int(changed.sum()), masked + int(mask.sum())
    assert differ > 0.4 * masked > 0
    assert (masked == FILM.frames * 96 * 64) == (kind in GLOBAL_EDITS)


def test_instructions_say_what_is_done():
    deleted = make_pair(FILM, "delete")
    subject = next(s for s in FILM.shots[0].scene.subjects if s.name == deleted.target)
    assert deleted.instruction.startswith("Remove the ")
    assert f"{subject.colour} {subject.material} {subject.shape}" in deleted.instruction
    inserted = make_pair(FILM, "insert")
    assert (inserted.before, inserted.after) == (deleted.after, deleted.before)
    recoloured = make_pair(FILM, "recolour")
    new = next(s for s in recoloured.after.shots[0].scene.subjects if s.name == recoloured.target)
    assert recoloured.instruction.endswith(f"to {new.colour}.")


def test_edits_draw_from_what_may_be_chosen():
    choices = Choices(colours=("pink",), styles=("noir",), backgrounds=("teal",))
    recoloured = make_pair(FILM, "recolour", choices=choices)
    assert recoloured.instruction.endswith("to pink.")
    assert make_pair(FILM, "restyle", choices=choices).after.shots[0].scene.style == "noir"
    moved = make_pair(FILM, "background", choices=choices)
    assert moved.instruction == "Change the background to flat teal."
    behind = moved.after.shots[0].scene.background
    assert (behind.kind, behind.colours) == ("flat", ("teal", "teal"))


def test_a_deleted_subject_is_no_longer_heard():
    film = next(
        film
        for film in (sample_film(seed, size=(64, 64), seconds=2.0, subjects=1, sound="impacts") for seed in range(50))
        if film.shots[0].scene.subjects[0].motion.kind == "bouncing"
    )
    pair = make_pair(film, "delete")
    assert any(event["kind"] == "sfx" for event in render(pair.before).annotation["audio_events"])
    assert not any(event["kind"] == "sfx" for event in render(pair.after).annotation["audio_events"])


def test_a_pair_on_disk(tmp_path):
    path = write_pair(make_pair(FILM, "recolour"), tmp_path, "pair")
    edit = json.loads(path.read_text("utf-8"))
    assert (tmp_path / edit["before"]).stat().st_size > 1000
    assert (tmp_path / edit["after"]).stat().st_size > 1000
    assert len(edit["masks"]) == FILM.frames


def test_pairs_of_many_shots_are_refused():
    with pytest.raises(ValueError, match="one shot"):
        make_pair(sample_film(1, shots=2), "delete")
