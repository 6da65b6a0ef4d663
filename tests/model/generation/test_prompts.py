import pytest

from model.generation.prompts import Shot, StructuredPrompt, prompt_seconds, render_prompt


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
