"""Clips of the world against what was asked for."""

import dataclasses

import numpy as np
import pytest

from pipelines.evaluation.films import DEVELOPMENT_SEED, Format, examples
from pipelines.evaluation.judge.asked import Asked, judged

FORM = Format(17, 16.0, 64, 64)


@pytest.fixture(scope="module")
def films():
    return list(examples(DEVELOPMENT_SEED + 40, 4, FORM, motion="bouncing"))


def asked_of(film, **changes):
    truth = film.truth
    words = {name: getattr(truth, name) for name in ("shape", "colour", "background", "motion", "sound")}
    return Asked(**(words | changes))


def test_what_was_asked_for_is_found(films):
    for film in films:
        assert all(verdict.right for verdict in judged(film.clip, asked_of(film)).values()), film.truth.prompt


def test_what_differs_is_named(films):
    film = films[0]
    found = judged(film.clip, asked_of(film, shape="hexagon", sound="surf"))
    assert [name for name, verdict in found.items() if not verdict.right] == ["shape", "sound"]
    assert found["shape"].seen == film.truth.shape
    silent = judged(dataclasses.replace(film.clip, audio=None), asked_of(film))
    assert (silent["sound"].seen, silent["sound"].right) == ("silence", False)


def test_noise_is_nothing_that_anybody_asks_for(films):
    noise = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), np.uint8)
    found = judged(dataclasses.replace(films[0].clip, frames=noise), asked_of(films[0]))
    assert not found["shape"].right
    with pytest.raises(ValueError, match="without a picture"):
        judged(dataclasses.replace(films[0].clip, frames=None), asked_of(films[0]))
