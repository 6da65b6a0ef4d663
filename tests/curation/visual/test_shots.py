"""Hard cuts against PySceneDetect's own detector, and against the truth of rendered films."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from pipelines.curation.visual.shots import ContentChange, CutThresholds, find_cuts
from pipelines.curation.visual.timeline import FrameCurves

FPS = 24.0


def pictures(seed: int) -> list[np.ndarray]:
    """120 small BGR frames: shots of random colours that drift, with a flash."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(5):
        base = rng.integers(0, 255, (18, 32, 3)).astype(np.float32)
        drift = rng.normal(0, 0.6, (18, 32, 3))
        frames += [np.clip(base + drift * n + rng.normal(0, 2, base.shape), 0, 255) for n in range(24)]
    frames[60] = np.full_like(frames[60], 250)
    return [frame.astype(np.uint8) for frame in frames]


def curves(frames: list[np.ndarray]) -> FrameCurves:
    change = ContentChange()
    content = np.array([change(cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)) for frame in frames], np.float32)
    rest = np.full(len(frames), 50.0, np.float32)
    return FrameCurves(np.arange(len(frames)) / FPS, *[rest] * 7, content, *[rest] * 3)


@pytest.mark.parametrize("seed", range(4))
def test_finds_what_the_adaptive_detector_finds(seed):
    frames = pictures(seed)
    detector = AdaptiveDetector(adaptive_threshold=3.0, window_width=2, min_content_val=15.0, min_scene_len=6)
    theirs = [cut for n, f in enumerate(frames) for cut in detector.process_frame(FrameTimecode(n, FPS), f)]
    ours = find_cuts(curves(frames), [], CutThresholds(min_shot_s=6 / FPS))
    assert [cut.frame_index for cut in ours] == [cut.frame_num for cut in theirs]
    assert len(ours) >= 4


def test_content_change_is_the_detectors_score():
    frames = pictures(9)
    detector, change = AdaptiveDetector(), ContentChange()
    for n, frame in enumerate(frames):
        detector.process_frame(FrameTimecode(n, FPS), frame)
        assert change(cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)) == pytest.approx(detector._frame_score, abs=1e-9)


def test_a_flash_is_no_cut():
    frames = pictures(0)
    step = np.full(len(frames), 50.0, np.float32)
    step[59:62] = 3.0
    found = find_cuts(replace(curves(frames), step_change=step), [], CutThresholds())
    assert [cut.frame_index for cut in found] == [24, 48, 72, 96]


def test_held_frames_do_not_make_cuts_of_the_steps_between_them():
    content = np.where(np.arange(96) % 4 == 0, 30.0, 0.0).astype(np.float32)
    content[50] = 120.0
    rest = np.full(96, 50.0, np.float32)
    held = np.where(content > 0, 60.0, 0.0).astype(np.float32)
    frames = FrameCurves(np.arange(96) / FPS, *[rest] * 7, content, rest, held, rest)
    assert [cut.frame_index for cut in find_cuts(frames, [], CutThresholds())] == [50]


def test_every_cut_of_a_film_is_found_to_the_frame(analyse, shot_films):
    path, truth = shot_films["cut"]
    found = {cut.frame_index for cut in analyse(path).cuts}
    wanted = {cut["frame"] for cut in truth}
    hits = sum(any(abs(frame - other) <= 1 for other in found) for frame in wanted)
    assert len(wanted) == 15
    assert 2 * hits / (len(found) + len(wanted)) >= 0.95
