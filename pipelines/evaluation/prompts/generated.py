"""Some 2,000 prompts in the categories of SkyReels-VABench, in four languages, of one shot and of two.

They are made of `prompts.yaml` by a fixed rule: the same number is the same prompt for ever, until the grammar changes.
People judge what is made of them, or metrics that need no truth.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from model.generation.prompts import Prompt, Shot, StructuredPrompt

GRAMMAR = Path(__file__).with_name("prompts.yaml")
SHOT_SECONDS = 3.0


@dataclass(frozen=True)
class BenchPrompt:
    """`name` is language, category and number; `prompt` is what a generator takes."""

    name: str
    language: str
    category: str
    prompt: Prompt

    @property
    def shots(self) -> int:
        return len(self.prompt) if isinstance(self.prompt, list) else 1


def bench_prompts() -> list[BenchPrompt]:
    """All of them: every scene in every setting before every camera; one in five goes on with the next scene."""
    grammar = yaml.safe_load(GRAMMAR.read_text("utf-8"))
    return [
        prompt
        for language, words in grammar.items()
        for category, scenes in words["scenes"].items()
        for prompt in _of_category(language, category, scenes, words["settings"], words["cameras"])
    ]


def _of_category(
    language: str, category: str, scenes: list[list[str]], settings: list[str], cameras: list[str]
) -> list[BenchPrompt]:
    found = []
    for number, (at, setting, camera) in enumerate(product(range(len(scenes)), settings, cameras)):
        first = _told(scenes[at], setting, camera, language)
        prompt: Prompt = first
        if number % 5 == 4:
            second = _told(scenes[(at + 1) % len(scenes)], setting, cameras[0], language)
            prompt = [Shot(first, SHOT_SECONDS), Shot(second, SHOT_SECONDS)]
        found.append(BenchPrompt(f"{language}/{category}/{number:03d}", language, category, prompt))
    return found


def _told(scene: list[str], setting: str, camera: str, language: str) -> StructuredPrompt:
    happens, heard, said = scene
    comma, stop = ("，", "。") if language == "zh" else (", ", ". ")
    picture = f"{setting}{comma}{happens}{stop}{camera}{stop}".strip()
    return StructuredPrompt(picture, sfx=(heard,), dialogue=(said,))
