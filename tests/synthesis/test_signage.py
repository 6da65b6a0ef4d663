import pytest

from pipelines.synthesis.overlays import make_stamps, stamp_box
from pipelines.synthesis.render import frame_at
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.sentences import SIGNS
from pipelines.synthesis.signage import (
    with_letterbox,
    with_logo,
    with_shop_signs,
    with_sign,
    with_subtitles,
    with_watermark,
)
from pipelines.synthesis.stage import build
from pipelines.synthesis.voice import speak

FILM = sample_film(2, size=(160, 120), seconds=2.0)


@pytest.mark.parametrize(
    "put_on", [with_sign, with_shop_signs, with_subtitles, with_watermark, with_logo, with_letterbox]
)
def test_each_seed_puts_something_on_the_picture(put_on):
    for seed in range(4):
        marked = put_on(FILM, seed)
        assert marked == put_on(FILM, seed)
        assert (frame_at(build(marked), 10) != frame_at(build(FILM), 10)).any()


@pytest.mark.parametrize("language", SIGNS)
def test_signs_are_in_the_language_asked_for(language):
    overlay = with_sign(FILM, 3, language).overlays[0]
    assert overlay.text in SIGNS[language]
    assert overlay.language == language


def test_subtitles_show_what_is_said_while_it_is_said():
    film = sample_film(7, size=(160, 120), seconds=5.0, sound="speech")
    titles = with_subtitles(film, 0).overlays
    assert [title.text for title in titles] == [line.text for line in film.sound.lines]
    for title, line in zip(titles, film.sound.lines, strict=True):
        assert title.start == line.start
        assert title.end == pytest.approx(line.start + speak(line, 44100).samples.size / 44100)


def test_logos_sit_in_the_corners():
    boxes = [stamp_box(make_stamps(with_logo(FILM, seed))[0]) for seed in range(4)]
    assert len(set(boxes)) == 4
    for x0, y0, x1, y1 in boxes:
        assert x1 < 50 or x0 > 110
        assert y1 < 40 or y0 > 80
