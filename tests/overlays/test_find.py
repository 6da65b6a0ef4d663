"""Text and logos that are drawn over moving scenes are found where they are and while they are there."""

import cv2
import numpy as np
import pytest

from pipelines.overlays.find import find_overlays, sample_interval, sample_size
from pipelines.synthesis.textures import fractal_noise
from tests.overlays.scenes import HEIGHT, WIDTH, badge, lettered, views, written

INTERVAL = 0.25


def covered(overlays, shape):
    """(H, W) bool of the overlays' areas."""
    mask = np.zeros(shape, bool)
    for overlay in overlays:
        left, top, right, bottom = overlay.area
        mask[round(top * shape[0]) : round(bottom * shape[0]), round(left * shape[1]) : round(right * shape[1])] = True
    return mask


def boxed(ink):
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    box = np.zeros_like(ink)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("text", ["We left an hour ago", "Why? Nobody asked."])
def test_a_subtitle_is_covered_while_it_is_there(seed, text):
    samples = views(seed)
    for n in range(4, 10):
        samples[n], ink = lettered(samples[n], text, (90, 235))
    found = find_overlays(samples, INTERVAL, ["text"])
    mask = covered(found.overlays, samples[0].shape)
    assert mask[ink].mean() > 0.99
    assert (mask & boxed(ink)).sum() / (mask | boxed(ink)).sum() > 0.45
    assert min(overlay.start_s for overlay in found.overlays) == pytest.approx(3 * INTERVAL)
    assert max(overlay.end_s for overlay in found.overlays) == pytest.approx(11 * INTERVAL)


@pytest.mark.parametrize("seed", range(4))
def test_two_lines_that_stand_close_are_covered_though_they_go_at_once(seed):
    samples = views(seed)
    for n in (5, 6, 7):
        samples[n], upper = lettered(samples[n], "We left", (90, 214))
        samples[n], lower = lettered(samples[n], "an hour", (90, 235))
    mask = covered(find_overlays(samples, INTERVAL, ["text"]).overlays, samples[0].shape)
    assert mask[upper | lower].mean() > 0.99


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", ["出口", "출구"])
def test_two_characters_are_covered_where_they_stay_and_are_no_text_where_they_flash(seed, text):
    def found(shown):
        samples = [written(view, text, (200, 220))[0] if n in shown else view for n, view in enumerate(views(seed))]
        return find_overlays(samples, INTERVAL, ["text"]).overlays

    ink = written(views(seed)[0], text, (200, 220))[1]
    mask = covered(found(range(4, 10)), ink.shape)
    assert mask[ink].mean() > 0.99
    assert (mask & boxed(ink)).sum() / (mask | boxed(ink)).sum() > 0.35
    assert found(range(5, 7)) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("opacity", [1.0, 0.6])
def test_a_logo_is_covered_all_the_time(seed, opacity):
    samples = [badge(view, 400, 40, opacity) for view in views(seed)]
    ink = samples[0][1]
    found = find_overlays([view for view, _ in samples], INTERVAL, ["logo"])
    mask = covered(found.overlays, ink.shape)
    assert mask[ink].mean() > 0.98
    assert (mask & boxed(ink)).sum() / (mask | boxed(ink)).sum() > 0.45
    assert {(overlay.kind, overlay.start_s, overlay.end_s) for overlay in found.overlays} == {("logo", 0.0, 4.0)}
    assert not found.unsure


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_found_where_nothing_is_laid_over(seed):
    found = find_overlays(views(seed), INTERVAL, ["text", "logo"])
    assert found.overlays == []
    assert not found.unsure


def test_a_sign_that_the_camera_pans_past_stays():
    noise = fractal_noise(460, 1100, np.random.default_rng(3), coarsest=120, decay=0.75)
    wall = cv2.GaussianBlur(np.clip(110 + 20 * noise, 0, 255).astype(np.uint8), (0, 0), 0.8)
    cv2.rectangle(wall, (380, 170), (570, 215), 40, -1)
    cv2.putText(wall, "Cafe Roma", (392, 202), cv2.FONT_HERSHEY_DUPLEX, 1.0, 220, 2, cv2.LINE_AA)
    samples = [cv2.getRectSubPix(wall, (WIDTH, HEIGHT), (430.0 + 2 * n, 200.0)) for n in range(16)]
    assert find_overlays(samples, INTERVAL, ["text", "logo"]).overlays == []


def test_only_what_is_asked_for_is_found():
    samples = [badge(lettered(view, "We left an hour ago", (90, 235))[0], 400, 40)[0] for view in views(1)]
    kinds = {kind: {one.kind for one in find_overlays(samples, INTERVAL, [kind]).overlays} for kind in ("text", "logo")}
    assert kinds["text"] == {"text"}
    assert kinds["logo"] == {"logo"}


def test_a_logo_before_a_scene_that_stands_still_is_not_guessed():
    still = [badge(views(2, 1)[0], 400, 40)[0]] * 12
    found = find_overlays(still, INTERVAL, ["logo"])
    assert found.overlays == []
    assert found.unsure
    assert find_overlays(still[:1], INTERVAL, ["logo"]).unsure, "of one picture nothing is known"


def test_the_edges_of_black_bars_are_no_logos():
    samples = []
    for view in views(4):
        view[:32] = view[-32:] = 0
        samples.append(view)
    assert find_overlays(samples, INTERVAL, ["logo"]).overlays == []
    lettered_bars = [lettered(view, "We left an hour ago", (90, 248), 0.6)[0] for view in samples]
    assert find_overlays(lettered_bars, INTERVAL, ["text"]).overlays
    mask = covered(find_overlays(lettered_bars, INTERVAL, ["logo"]).overlays, samples[0].shape)
    assert not mask[:210].any(), "letters that stay all the time are a mark, the bars that hold them are none"


def test_samples_are_small_and_close_enough():
    assert sample_size(1920, 1080) == (455, 256)
    assert sample_size(96, 64) == (96, 64)
    assert sample_interval(60, 24) == 0.25
    assert sample_interval(1.2, 24) == pytest.approx(0.1)
    assert sample_interval(0.5, 16) == 1 / 16
