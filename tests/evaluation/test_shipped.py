"""The model that comes with the project does what it is told, in combinations that training never saw."""

import pytest

from model.folder import SHIPPED
from model.generator import Generator
from pipelines.evaluation.films import DEVELOPMENT_SEED, examples
from pipelines.evaluation.make import format_of, make_clip
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.suites import SUITES

FILMS = 16
LEAST = {"colour": 15, "shape": 13, "background": 15, "motion": 12, "sound": 15}
"""Of 16; docs/evaluation.md has the shares of a hundred."""


@pytest.fixture(scope="module")
def cases():
    generator = Generator.from_pretrained(str(SHIPPED))
    suite, form = SUITES["t2av"], format_of(generator)
    asks = [suite.ask(example, form) for example in examples(DEVELOPMENT_SEED, FILMS, form)]
    return [ask.case(make_clip(generator, suite, ask, seed, {})) for seed, ask in enumerate(asks)]


@pytest.mark.parametrize("metric", LEAST)
def test_clips_show_and_sound_what_was_asked_for(cases, metric):
    right = sum(bool(METRICS[metric].of(case)) for case in cases)
    assert right >= LEAST[metric], f"{metric}: {right} of {FILMS}"


def test_its_weights_are_small_and_no_pickle():
    weights = list(SHIPPED.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 30e6
    told = {path.suffix for path in SHIPPED.rglob("*") if path.is_file()}
    assert told <= {".safetensors", ".json", ".jsonl", ".jinja", ".md"}
