from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from pipelines.synthesis.film import Background, Film, Overlay, Scene, Shot
from pipelines.synthesis.overlays import make_stamps, overlay_mask, stamp_box
from pipelines.synthesis.render import frame_at
from pipelines.synthesis.sentences import SIGNS
from pipelines.synthesis.stage import build

PLAIN = Film((Shot(Scene(background=Background("gradient")), 2.0),), (160, 120), Fraction(10))


@pytest.mark.parametrize("kind", ["text", "subtitle", "watermark", "logo"])
def test_an_overlay_changes_its_mask_and_nothing_else(kind):
    film = replace(PLAIN, overlays=(Overlay(kind, "Sample", size=0.15, opacity=0.6),))
    changed = (frame_at(build(film), 3) != frame_at(build(PLAIN), 3)).any(axis=-1)
    mask = overlay_mask(make_stamps(film), film.size, 0.3)
    assert not (changed & ~mask).any()
    assert changed.sum() > 0.5 * mask.sum() > 0
    x0, y0, x1, y1 = stamp_box(make_stamps(film)[0])
    assert (np.nonzero(mask)[1].min(), np.nonzero(mask)[1].max() + 1) == (x0, x1)
    assert (np.nonzero(mask)[0].min(), np.nonzero(mask)[0].max() + 1) == (y0, y1)


def test_overlays_show_in_their_time_only():
    film = replace(PLAIN, overlays=(Overlay("text", "Now", start=0.5, end=1.0),))
    shows = [bool((frame_at(build(film), k) != frame_at(build(PLAIN), k)).any()) for k in range(PLAIN.frames)]
    assert shows == [5 <= k < 10 for k in range(20)]


@pytest.mark.parametrize("language", SIGNS)
def test_every_language_has_its_own_letters(language):
    """A font without the letters would draw every sign as the same row of boxes."""
    drawn = [
        make_stamps(replace(PLAIN, overlays=(Overlay("text", letter, size=0.3),)))[0].alpha
        for letter in _letters(language)
    ]
    assert len({letter.tobytes() for letter in drawn}) == len(drawn) >= 3


def _letters(language):
    return sorted({letter for sign in SIGNS[language] for letter in sign if letter.isalpha()})[:8]


def test_long_text_shrinks_into_the_frame():
    stamp = make_stamps(replace(PLAIN, overlays=(Overlay("text", "a very long line of text indeed", size=0.3),)))[0]
    assert stamp.alpha.shape[1] <= 160
    assert stamp.alpha[:, [0, -1]].max() == 0  # whole, not cut off


def test_letterbox_is_black_and_of_the_stated_height():
    frame = frame_at(build(replace(PLAIN, letterbox=0.125)), 0)
    dark = (frame.max(axis=(1, 2)) == 0).nonzero()[0]
    assert list(dark) == [*range(15), *range(105, 120)]
