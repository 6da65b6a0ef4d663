"""Films with known faults, rendered once per session, and their timelines."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipelines.curation.visual.decode_pass import run_decode_pass
from pipelines.curation.visual.timeline import Timeline
from pipelines.synthesis import defects
from pipelines.synthesis.film import Camera, Film, Overlay
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render, write_film
from skyreels.media.encode import write_video
from skyreels.media.probe import probe

SIZES = ((256, 256), (384, 216), (256, 448))


@pytest.fixture(scope="session")
def analyse() -> Callable[[Path], Timeline]:
    return lambda path: run_decode_pass(path, probe(path))


@pytest.fixture(scope="session")
def shot_films(tmp_path_factory) -> dict[str, tuple[Path, list[dict]]]:
    """Per kind of transition a film of many shots, with the truth about its cuts."""
    folder = tmp_path_factory.mktemp("shots")
    films = {}
    for kind, shots, seconds in (("cut", 16, 20.0), ("dissolve", 5, 13.0), ("fade", 5, 13.0)):
        film = sample_film(41, size=(256, 144), fps=24, seconds=seconds, shots=shots, transition=kind, sound="impacts")
        films[kind] = (folder / f"{kind}.mp4", write_film(film, folder, kind)["cuts"])
    return films


@pytest.fixture(scope="session")
def faulty(tmp_path_factory, analyse) -> Callable[[str], list[Timeline]]:
    """Timelines of two clips with one fault each, or of four "clean" ones, rendered when first asked for."""
    folder = tmp_path_factory.mktemp("faults")
    known: dict[str, list[Timeline]] = {}

    def timelines(fault: str) -> list[Timeline]:
        if fault not in known:
            known[fault] = [analyse(_write(folder, fault, seed)) for seed in range(4 if fault == "clean" else 2)]
        return known[fault]

    return timelines


def _write(folder: Path, fault: str, seed: int) -> Path:
    film = sample_film(500 + seed, size=SIZES[seed % 3], fps=12, seconds=5.0, sound="impacts")
    film = _changed(film, fault, seed)
    frames = render(film).frames()
    tampered = {
        "blur": lambda: defects.blur(frames),
        "over": lambda: defects.expose(frames, 2.5),
        "under": lambda: defects.expose(frames, -4.5),
        "repeat": lambda: defects.repeat_frames(frames, 3),
        "comb": lambda: _woven(frames),
    }
    path = folder / f"{fault}{seed}.mp4"
    write_video(path, tampered[fault]() if fault in tampered else frames, film.fps, crf=20)
    return path


def _woven(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Every other row is of the next moment, as in interlaced film that lost its flag."""
    for now, then in pairwise(frames):
        now = now.copy()
        now[1::2] = then[1::2]
        yield now


def _changed(film: Film, fault: str, seed: int) -> Film:
    if fault == "logo":
        film = replace(film, shots=(replace(film.shots[0], camera=Camera("pan", 0.25)),))
    if fault == "static":
        return defects.freeze(film)
    if fault == "shake":
        return defects.shake(film, seed=seed)
    if fault == "letterbox":
        return replace(film, letterbox=0.12)
    overlays = {
        "subtitle": Overlay("subtitle", "I said we would be late", position=(0.5, 0.9), size=0.07, start=1.0, end=4.5),
        "text": Overlay("text", "SUMMER SALE", position=(0.5, 0.4), size=0.12),
        "watermark": Overlay("watermark", "sample.tv", position=(0.8, 0.1), size=0.08, opacity=0.6),
        "logo": Overlay("logo", "", position=(0.88, 0.12), size=0.06, opacity=0.8),
    }
    return replace(film, overlays=(overlays[fault],)) if fault in overlays else film
