"""Each planted fault is told from clean clips by its own score, at thresholds fit for a recipe."""

import cv2
import numpy as np
import pytest

from pipelines.curation.visual.scores import clip_crop, clip_hashes, clip_scores, measure_image
from pipelines.curation.visual.timeline import Timeline

# What a clean clip satisfies: (score, lowest, highest).
BOUNDS = {
    "static": ("local_change", 3.5, None),
    "shake": ("shake", None, 0.008),
    "blur": ("sharpness", 0.5, None),
    "over": ("blown_fraction", None, 0.25),
    "under": ("contrast", 12.0, None),
    "repeat": ("repeated_fraction", None, 0.25),
    "comb": ("combing", None, 1.1),
    "letterbox": ("border_fraction", None, 0.02),
    "subtitle": ("text_area", None, 0.006),
    "text": ("text_area", None, 0.006),
    "watermark": ("text_area", None, 0.006),
    "logo": ("watermark_area", None, 0.006),
}


def within(timeline: Timeline, rule: tuple[str, float | None, float | None]) -> bool:
    name, lowest, highest = rule
    value = getattr(clip_scores(timeline, 0.0, 60.0), name)
    return value is None or ((lowest is None or value >= lowest) and (highest is None or value <= highest))


@pytest.mark.parametrize("fault", BOUNDS)
def test_a_fault_is_found(faulty, fault):
    assert not any(within(timeline, BOUNDS[fault]) for timeline in faulty(fault))


def test_clean_clips_pass_every_bound(faulty):
    broken = [
        (fault, n) for n, clip in enumerate(faulty("clean")) for fault in BOUNDS if not within(clip, BOUNDS[fault])
    ]
    assert broken == []


def test_only_subtitles_are_called_subtitles(faulty):
    shares = {fault: [clip_scores(t, 0, 60).subtitle_fraction for t in faulty(fault)] for fault in ("subtitle", "text")}
    assert min(shares["subtitle"]) >= 0.5
    assert max(shares["text"]) == 0.0


def test_the_crop_is_the_picture_between_the_bars(faulty):
    for timeline in faulty("letterbox"):
        bar = round(0.12 * timeline.height)
        x, y, width, height = clip_crop(timeline, 0.0, 60.0)
        assert (x, width) == (0, timeline.width)
        assert bar <= y <= bar + 4
        assert timeline.height - bar - 4 <= y + height <= timeline.height - bar
    for timeline in faulty("under"):
        assert clip_crop(timeline, 0.0, 60.0) == (0, 0, timeline.width, timeline.height)


def test_a_part_of_a_clip_has_scores_of_its_own(faulty):
    timeline = faulty("subtitle")[0]
    assert clip_scores(timeline, 0.0, 1.0).text_area == 0.0
    assert clip_scores(timeline, 1.0, 4.0).text_area > 0.006
    hashes, times = clip_hashes(timeline, 1.0, 4.0)
    assert len(hashes) == len(times) == 6
    assert times[0] == pytest.approx(0.0, abs=0.1)
    with pytest.raises(ValueError, match="holds no frame"):
        clip_scores(timeline, 70.0, 80.0)


def test_an_image_has_no_motion_but_the_same_text_and_bars():
    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(60, 200, (9, 16, 3), dtype=np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    plain = measure_image(rgb).scores
    assert plain.motion is None
    assert plain.text_area == 0.0
    assert plain.luma_mean == pytest.approx(16 + 219 / 255 * cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).mean(), abs=1.0)
    written = cv2.putText(rgb.copy(), "Grand opening today", (90, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (255,) * 3, 3)
    assert measure_image(written).scores.text_area > 0.02
    barred = cv2.copyMakeBorder(rgb, 40, 40, 0, 0, cv2.BORDER_CONSTANT)
    assert measure_image(barred).crop == pytest.approx((0, 40, 640, 360), abs=4)
    assert measure_image(rgb).hash != measure_image(rgb[:, ::-1]).hash
