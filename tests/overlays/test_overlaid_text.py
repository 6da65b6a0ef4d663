"""Text that is laid over a picture and text in the scene, told apart by how they move."""

import cv2
import numpy as np
import pytest

from pipelines.overlays.overlaid_text import sort_text
from pipelines.synthesis.textures import fractal_noise

SIZE = (455, 256)


def scene(seed: int, signs: tuple[str, ...] = ()) -> np.ndarray:
    """(420, 700) a wall, and signs on it."""
    noise = fractal_noise(420, 700, np.random.default_rng(seed), coarsest=120, decay=0.75)
    wall = np.clip(110 + 22 * noise, 0, 255).astype(np.uint8)
    for n, text in enumerate(signs):
        x, y = 230 + 60 * (n % 2), 150 + 55 * n
        cv2.rectangle(wall, (x - 10, y - 26), (x + 20 * len(text), y + 12), 45, -1)
        write(wall, text, (x, y), 205)
    return cv2.GaussianBlur(wall, (0, 0), 0.8)


def write(picture: np.ndarray, text: str, at: tuple[int, int], ink: int = 240) -> np.ndarray:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_DUPLEX, 0.8, ink, 2, cv2.LINE_AA)
    return picture


def seen(wall: np.ndarray, path: np.ndarray, zoom: np.ndarray | None = None) -> list[np.ndarray]:
    """What a camera sees of the scene at each (x, y) of its path, with the noise of its sensor."""
    rng = np.random.default_rng(5)
    views = []
    for n, (x, y) in enumerate(path):
        z = 1.0 if zoom is None else zoom[n]
        middle = np.array([350 + x, 210 + y])
        to_view = np.array([[z, 0, SIZE[0] / 2 - z * middle[0]], [0, z, SIZE[1] / 2 - z * middle[1]]])
        view = cv2.warpAffine(wall, to_view, SIZE, borderMode=cv2.BORDER_REFLECT)
        views.append(np.clip(view + rng.normal(0, 1.5, view.shape), 0, 255).astype(np.uint8))
    return views


T = np.arange(6.0)
PATHS = {
    "hand": np.stack([7 * np.sin(1.9 * T + 0.3), 5 * np.sin(2.3 * T)], axis=1),
    "tremor": np.stack([0.9 * np.sin(1.9 * T + 0.3), 0.8 * np.sin(2.3 * T + 1)], axis=1),
    "pan": np.stack([20 * (T - 2.5), 0 * T], axis=1),
    "slow pan": np.stack([3 * (T - 2.5), 0 * T], axis=1),
    "tilt": np.stack([0 * T, 6 * (T - 2.5)], axis=1),
    "zoom": np.zeros((6, 2)),
}
SIGNS = ("Cafe Roma", "BAKERY", "HOTEL")


def area(samples) -> float:
    return float(np.mean([sum(line.width * line.height for line in lines) for lines in samples]))


@pytest.mark.parametrize("camera", PATHS)
def test_signs_go_with_the_scene(camera):
    zoom = 1.06**T if camera == "zoom" else None
    found = sort_text(seen(scene(0, SIGNS), PATHS[camera], zoom))
    assert area(found.in_scene) > 0.02
    assert area(found.laid_over) < 0.001


@pytest.mark.parametrize("camera", PATHS)
def test_a_caption_stays_while_the_scene_moves(camera):
    views = [write(view, "We left an hour ago", (60, 235)) for view in seen(scene(1), PATHS[camera])]
    found = sort_text(views)
    assert area(found.laid_over) > 0.015
    assert area(found.in_scene) == 0.0


def test_both_are_found_side_by_side():
    views = [write(view, "We left an hour ago", (60, 235)) for view in seen(scene(2, SIGNS), PATHS["hand"])]
    found = sort_text(views)
    for lines in found.laid_over:
        assert all(line.y > 0.8 for line in lines)
    assert area(found.laid_over) > 0.01
    assert area(found.in_scene) > 0.02


def test_letters_that_run_through_a_band_are_laid_over():
    ticker = "Storm warning for the north coast   Markets close higher   Final on Sunday   Bridge reopens   " * 2
    for camera in ("hand", "tremor"):
        views = seen(scene(3), PATHS[camera])
        for n, view in enumerate(views):
            cv2.rectangle(view, (0, 226), (SIZE[0], 250), 60, -1)
            cv2.putText(view, ticker, (-57 * n, 244), cv2.FONT_HERSHEY_SIMPLEX, 0.55, 235, 1, cv2.LINE_AA)
        assert area(sort_text(views).laid_over) > 0.015


def test_where_nothing_moves_text_counts_as_laid_over():
    views = seen(scene(4, SIGNS), np.zeros((6, 2)))
    found = sort_text(views)
    assert area(found.laid_over) > 0.02
    assert area(found.in_scene) == 0.0
    assert area(sort_text(views[:1]).laid_over) > 0.02


def test_letters_that_no_other_sample_has_are_neither():
    views = seen(scene(5), PATHS["hand"])
    write(views[2], "Only once", (120, 120))
    found = sort_text(views)
    assert area(found.laid_over) == area(found.in_scene) == 0.0
    assert sort_text([]) == ([], [])
