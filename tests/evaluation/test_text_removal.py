"""Words over a film are found, and taken away only where what lies behind them is shown."""

import numpy as np
import pytest

from pipelines.evaluation.films import DEVELOPMENT_SEED, Format, examples
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.suites import SUITES

FORM = Format(17, 16.0, 64, 64)


@pytest.fixture(scope="module")
def asks():
    return [SUITES["text_removal"].ask(film, FORM) for film in examples(DEVELOPMENT_SEED, 8, FORM)]


def covered(ask):
    return np.abs(ask.baseline.astype(int) - ask.source.frames).max(-1) > 32


def test_what_words_cover_is_asked_for_and_little_else(asks):
    for ask in asks:
        assert covered(ask).any((1, 2)).all(), "words stand over every frame"
        assert (~ask.keep)[covered(ask)].mean() > 0.99
        assert (~ask.keep).mean() < 0.3
        assert np.array_equal(ask.arguments["video"], ask.baseline)
        assert np.array_equal(ask.arguments["mask"], ~ask.keep)


def test_the_share_that_is_uncovered_is_that_which_shows_the_film(asks):
    ask, uncovered = asks[0], METRICS["uncovered"].of
    left, half = ask.baseline.copy(), ask.source.frames.shape[2] // 2
    left[:, :, :half] = ask.source.frames[:, :, :half]
    for frames, share in ((ask.baseline, 0.0), (ask.source.frames, 1.0), (left, covered(ask)[:, :, :half].sum())):
        made = ask.right.__class__(frames, ask.right.fps)
        assert uncovered(ask.case(made)) == pytest.approx(share if share <= 1 else share / covered(ask).sum())


def test_words_that_are_not_found_are_kept_and_nothing_of_them_is_uncovered(monkeypatch):
    monkeypatch.setattr("pipelines.evaluation.suites.words_over", lambda laid, form: np.zeros((17, 64, 64), bool))
    (film,) = examples(DEVELOPMENT_SEED, 1, FORM)
    ask = SUITES["text_removal"].ask(film, FORM)
    assert ask.keep.all()
    assert METRICS["uncovered"].of(ask.case(ask.right.__class__(ask.baseline, FORM.fps))) == 0.0
