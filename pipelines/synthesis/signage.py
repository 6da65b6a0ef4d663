"""Writing put on a film: signs, subtitles, watermarks, and the bars of a wide picture in a narrow frame."""

from dataclasses import replace

import numpy as np

from pipelines.synthesis.film import Film, Overlay
from pipelines.synthesis.sentences import SIGNS
from pipelines.synthesis.voice import speak

MARKS = ("STOCK MEDIA", "PREVIEW", "© SAMPLE")


def with_sign(film: Film, seed: int, language: str | None = None) -> Film:
    """Large words on the picture from beginning to end, in a language drawn from the seed unless given."""
    rng = _rng(seed)
    language = language or list(SIGNS)[int(rng.integers(len(SIGNS)))]
    text = SIGNS[language][int(rng.integers(len(SIGNS[language])))]
    return _with(film, Overlay("text", text, language, (0.5, float(rng.uniform(0.25, 0.75))), 0.13))


def with_shop_signs(film: Film, seed: int) -> Film:
    """Small words one above the other, as they stand in a street: of the scene once a camera moves over the film."""
    rng = _rng(seed)
    order, across = rng.permutation(len(SIGNS["en"])), rng.uniform(0.35, 0.65, 3)
    signs = zip(order.tolist(), across.tolist(), (0.25, 0.5, 0.75), strict=False)
    return _with(film, *(Overlay("text", SIGNS["en"][n], "en", (x, y), 0.06) for n, x, y in signs))


def with_subtitles(film: Film, seed: int) -> Film:
    """What is said or sung, word for word while it sounds; without voices, a few signs one after another."""
    if film.sound.lines:
        ends = [line.start + speak(line, film.sample_rate).samples.size / film.sample_rate for line in film.sound.lines]
        spans = [(line.text, line.language, line.start, end) for line, end in zip(film.sound.lines, ends, strict=True)]
    else:
        language = list(SIGNS)[int(_rng(seed).integers(len(SIGNS)))]
        step = float(film.frames / film.fps) / len(SIGNS[language])
        spans = [(text, language, n * step, (n + 1) * step) for n, text in enumerate(SIGNS[language])]
    titles = [
        Overlay("subtitle", text, language, (0.5, 0.92), 0.07, start=start, end=end)
        for text, language, start, end in spans
    ]
    return _with(film, *titles)


def with_watermark(film: Film, seed: int) -> Film:
    """A translucent stamp across the middle."""
    rng = _rng(seed)
    mark = MARKS[int(rng.integers(len(MARKS)))]
    return _with(
        film, Overlay("watermark", mark, position=(0.5, float(rng.uniform(0.4, 0.6))), size=0.12, opacity=0.45)
    )


def with_logo(film: Film, seed: int) -> Film:
    """A channel's emblem in a corner."""
    x, y = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))[seed % 4]
    return _with(film, Overlay("logo", "", position=(x, y), size=0.07, opacity=0.75))


def with_letterbox(film: Film, seed: int) -> Film:
    """Black bars above and below."""
    return replace(film, letterbox=float(_rng(seed).uniform(0.1, 0.16)))


def _with(film: Film, *overlays: Overlay) -> Film:
    return replace(film, overlays=(*film.overlays, *overlays))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, 0x516))
