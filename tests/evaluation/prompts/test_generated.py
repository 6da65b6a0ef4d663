"""The bench's own prompts: enough of them, all different, all of the forms that a generator takes."""

from collections import Counter

from model.generation.prompts import TAGS, StructuredPrompt, prompt_seconds, render_prompt
from pipelines.evaluation.prompts.generated import SHOT_SECONDS, bench_prompts

CATEGORIES = {"advertising", "social media", "narrative", "education", "entertainment"}


def test_there_are_two_thousand_in_every_category_and_language():
    prompts = bench_prompts()
    assert len(prompts) >= 2000
    assert {prompt.category for prompt in prompts} == CATEGORIES
    each = Counter((prompt.language, prompt.category) for prompt in prompts)
    assert len(each) == 4 * len(CATEGORIES)
    assert min(each.values()) >= 100
    assert {prompt.shots for prompt in prompts} == {1, 2}


def test_no_two_are_alike_and_they_are_the_same_every_time():
    prompts = bench_prompts()
    assert len({render_prompt(prompt.prompt) for prompt in prompts}) == len(prompts)
    assert len({prompt.name for prompt in prompts}) == len(prompts)
    assert prompts == bench_prompts()


def test_every_prompt_parses_as_words_tagged_sound_and_timed_shots():
    for prompt in bench_prompts():
        shots = prompt.prompt if isinstance(prompt.prompt, list) else [prompt.prompt]
        for told in (getattr(shot, "prompt", shot) for shot in shots):
            assert isinstance(told, StructuredPrompt)
            assert told.picture
            assert all(text.strip() == text and text and "<" not in text for text in (*told.sfx, *told.dialogue))
        text = render_prompt(prompt.prompt)
        assert [text.count(f"<{tag}>") for tag in TAGS] == [0, len(shots), len(shots), 0, 0]
        assert prompt_seconds(prompt.prompt) == (None if len(shots) == 1 else 2 * SHOT_SECONDS)
