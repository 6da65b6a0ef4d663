from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.generation.prompts import Shot, StructuredPrompt, prompt_between, prompt_seconds, render_prompt


def test_structured_prompts_keep_one_order_of_tags():
    prompt = StructuredPrompt(
        "A red circle bounces.", bgm=("calm piano",), sfx=("thud at 0.5 s", "thud at 1.0 s"), text=("OPEN",)
    )
    assert render_prompt(prompt).splitlines() == [
        "A red circle bounces.",
        "<text>OPEN</text>",
        "<sfx>thud at 0.5 s</sfx>",
        "<sfx>thud at 1.0 s</sfx>",
        "<bgm>calm piano</bgm>",
    ]


def test_shots_are_numbered_and_timed():
    shots = [Shot("wide view of @Actor-1", 2.5), Shot(StructuredPrompt("close-up of @Actor-1", sfx=("rain",)), 1.5)]
    assert render_prompt(shots) == (
        "Shot 1 (0.00-2.50 s): wide view of @Actor-1\nShot 2 (2.50-4.00 s): close-up of @Actor-1\n<sfx>rain</sfx>"
    )
    assert prompt_seconds(shots) == 4.0
    assert prompt_seconds("plain") is None


def test_a_shot_without_length_is_refused():
    with pytest.raises(ValueError, match="shot 2 lasts 0"):
        render_prompt([Shot("a", 1), Shot("b", 0)])
    with pytest.raises(ValueError, match="at least one shot"):
        render_prompt([])


def test_a_part_of_a_clip_is_told_the_shots_that_it_shows():
    rain = StructuredPrompt("a street", sfx=("rain",))
    text = render_prompt([Shot("a ball", 1.0), Shot(rain, 2.0), Shot("a dog", 1.0)])
    assert prompt_between(text, 0.2, 0.9) == "a ball"
    assert prompt_between(text, 0.5, 3.0) == (
        "Shot 1 (0.00-0.50 s): a ball\nShot 2 (0.50-2.50 s): a street\n<sfx>rain</sfx>"
    )
    assert prompt_between(text, 1.0, 3.0) == "a street\n<sfx>rain</sfx>"
    assert prompt_between(text, 3.5, 9.0) == prompt_between(text, 8.0, 9.0) == "a dog"
    for typed in ("a ball.\nShot 2 (0.00-1.00 s): no", "Shot 1 (5.00-2.00 s): a\nShot 2 (9.00-3.00 s): b"):
        assert prompt_between(typed, 0.0, 0.5) == typed


@given(st.lists(st.integers(1, 400), min_size=2, max_size=6), st.lists(st.integers(1, 2000), max_size=4))
def test_parts_tell_every_shot_for_as_long_as_it_lasts(hundredths, cuts):
    shots = [Shot(f"words {number}", length / 100) for number, length in enumerate(hundredths)]
    whole = render_prompt(shots)
    end = sum(hundredths)
    assert prompt_between(whole, 0.0, end / 100) == whole
    edges = sorted({0, end, *(cut for cut in cuts if cut < end)})
    parts = [prompt_between(whole, a / 100, b / 100) for a, b in pairwise(edges)]
    for number, length in enumerate(hundredths):
        told = [line for part in parts for line in part.splitlines() if line.endswith(f"words {number}")]
        timed = [line.split("(")[1].split(" s)")[0].split("-") for line in told if line.startswith("Shot")]
        assert told
        assert sum(float(until) - float(since) for since, until in timed) <= length / 100 + 0.011
