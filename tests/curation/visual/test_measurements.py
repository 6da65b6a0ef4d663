"""Each measurement alone, on pictures made for it, against numpy or against what was put in."""

import cv2
import numpy as np
import pytest

from pipelines.curation.visual.blur import sharpness
from pipelines.curation.visual.combing import combing
from pipelines.curation.visual.duplicates import repeated, repeats
from pipelines.curation.visual.exposure import blown_fraction, blown_fraction_rgb, exposure
from pipelines.curation.visual.motion import CameraThresholds, camera_flow, camera_label, summarise, travel
from pipelines.curation.visual.perceptual_hash import hamming, perceptual_hash
from pipelines.curation.visual.timeline import FlowCurves
from pipelines.overlays.borders import crop_box, lit_profiles
from pipelines.overlays.marks import fixed_marks
from pipelines.overlays.text import regions, text_lines


def scenery(seed: int, height: int = 360, width: int = 640) -> np.ndarray:
    """Noise with the spectrum of natural pictures, luma 40 to 210."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / np.maximum(np.hypot(fx, fy), 1 / width)
    noise = np.fft.irfft2(spectrum, (height, width))
    low, high = np.percentile(noise, (1, 99))
    return np.clip(40 + 170 * (noise - low) / (high - low), 16, 235).astype(np.uint8)


def test_exposure_is_what_numpy_says():
    luma = scenery(0)
    found = exposure(luma)
    assert found.mean == pytest.approx(luma.mean())
    assert found.std == pytest.approx(luma.std())
    assert (found.low, found.high) == pytest.approx(np.percentile(luma, (3, 97)), abs=1)
    assert found.dark == pytest.approx((luma < 32).mean())
    assert found.bright == pytest.approx((luma > 229).mean())


def test_what_is_blown_is_the_same_in_either_colour_space():
    rng = np.random.default_rng(3)
    rgb = rng.integers(200, 256, (60, 80, 3), dtype=np.uint8)
    expected = (rgb.max(axis=2) >= 250).mean()
    assert 0.1 < expected < 0.9
    assert blown_fraction_rgb(rgb) == blown_fraction(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)) == expected


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.6, 1.0])
def test_regions_are_those_of_opencv_in_its_order(share):
    rng = np.random.default_rng(round(100 * share))
    mask = (rng.random((57, 83)) < share).astype(np.uint8)
    _, _, expected, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    assert regions(mask) == [tuple(box) for box in expected[1:].tolist()]


def test_sharpness_falls_with_blur_and_not_with_contrast():
    luma = scenery(1)
    blurred = [sharpness(cv2.GaussianBlur(luma, (0, 0), sigma)).overall for sigma in (0.5, 1.5, 3.0, 5.0)]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[0] > 2 * blurred[-1]
    fainter = cv2.convertScaleAbs(luma, alpha=0.6, beta=40)
    assert sharpness(fainter).overall == pytest.approx(sharpness(luma).overall, abs=0.1)


def test_a_shallow_focus_has_a_sharp_peak_and_a_flat_picture_says_nothing():
    luma = cv2.GaussianBlur(np.where(scenery(2) > 125, 210, 40).astype(np.uint8), (0, 0), 3.0)
    assert sharpness(luma).peak < 0.6
    luma[100:260, 240:400] = scenery(3, 160, 160)
    found = sharpness(luma)
    assert found.peak > found.overall + 0.1
    assert np.isnan(sharpness(np.full((360, 640), 90, np.uint8)).overall)


@pytest.mark.parametrize(("bars", "sides"), [((44, 44), (0, 0)), ((0, 0), (80, 80)), ((30, 32), (60, 60))])
def test_bars_are_cropped_to_within_two_pixels(bars, sides):
    samples = [cv2.copyMakeBorder(scenery(n), *bars, *sides, cv2.BORDER_CONSTANT, value=16) for n in range(3)]
    height, width = samples[0].shape
    profiles = [lit_profiles(luma) for luma in samples]
    box = crop_box(np.array([p[0] for p in profiles]), np.array([p[1] for p in profiles]), width, height)
    assert box == pytest.approx((sides[0], bars[0], 640, 360), abs=4)
    assert box.x >= sides[0]
    assert box.y >= bars[0]


def test_dark_scenes_have_no_bars():
    night = np.full((360, 640), 18, np.uint8)
    night[250:] = scenery(5)[250:]
    spotlight = np.full((360, 640), 17, np.uint8)
    cv2.circle(spotlight, (320, 180), 120, 200, -1)
    for luma in (night, spotlight, np.full((360, 640), 16, np.uint8)):
        rows, columns = lit_profiles(luma)
        assert crop_box(rows[None], columns[None], 640, 360) == (0, 0, 640, 360)


def test_the_hash_survives_what_copies_go_through_and_tells_pictures_apart():
    luma = scenery(6)
    hashed = perceptual_hash(luma)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_GRAYSCALE)
    copies = [jpeg, cv2.resize(luma, (320, 180)), cv2.convertScaleAbs(luma, alpha=1.1, beta=5), luma[7:-7, 12:-12]]
    assert max(hamming(hashed, perceptual_hash(copy)) for copy in copies) <= 8
    others = [hamming(hashed, perceptual_hash(scenery(seed))) for seed in range(10, 30)]
    assert min(others) >= 14


@pytest.mark.parametrize(
    ("shift", "zoom", "roll"), [((3.0, -2.0), 0.0, 0.0), ((0.0, 0.0), 0.04, 0.0), ((1.0, 0.0), 0.0, 0.03)]
)
def test_camera_flow_recovers_a_similarity_despite_a_moving_thing(shift, zoom, roll):
    before = scenery(7, 108, 192)
    scale = np.hypot(108, 192)
    turn = np.array([[1 + zoom, -roll], [roll, 1 + zoom]])
    centre = np.array([95.5, 53.5])
    matrix = np.hstack([turn, (centre - turn @ centre + shift)[:, None]])
    after = cv2.warpAffine(before, matrix, (192, 108), borderMode=cv2.BORDER_REFLECT)
    after[40:64, 20:50] = scenery(8, 24, 30)
    found = camera_flow(before, after)
    assert (found.dx * scale, found.dy * scale) == pytest.approx(shift, abs=0.5)
    assert found.zoom == pytest.approx(zoom, abs=0.01)
    assert found.roll == pytest.approx(roll, abs=0.01)


@pytest.mark.parametrize("shape", [(25, 125), (125, 25), (12, 96), (20, 20)])
def test_flow_between_small_pictures_is_right_too(shape):
    before = scenery(12, 200, 200)[: shape[0], : shape[1]]
    after = np.roll(before, 1, axis=1)
    assert camera_flow(before, after).dx * np.hypot(*shape) == pytest.approx(1.0, abs=0.4)


def flow_curves(dx: np.ndarray, zoom: float = 0.0) -> FlowCurves:
    values = np.zeros((len(dx), 8), np.float32)
    values[:, 0], values[:, 1], values[:, 3] = 0.1, dx, zoom
    return FlowCurves(np.arange(len(dx)) / 10, *values.T)


def test_shake_is_what_is_left_of_the_path_without_its_smooth_part():
    steady = np.full(50, 0.01)
    trembling = steady + np.random.default_rng(0).normal(0, 0.01, 50)
    calm, shaken = (summarise(flow_curves(dx), slice(0, 50)) for dx in (steady, trembling))
    assert calm.shake < 1e-6
    assert shaken.shake > 0.004
    assert calm.pan_x == pytest.approx(0.1, rel=1e-4)
    labels = [
        camera_label(summarise(flow_curves(dx, zoom), slice(0, 50)), CameraThresholds())
        for dx, zoom in ((steady, 0.0), (trembling, 0.0), (np.zeros(50), 0.0), (-steady, 0.0), (np.zeros(50), 0.01))
    ]
    assert labels == ["pan_left", "handheld", "static", "pan_right", "zoom_in"]


def test_repeats_need_motion_around_them():
    moving = np.full(60, 20.0, np.float32)
    moving[::3] = 0.2
    assert repeated(moving)[3:-3].mean() == pytest.approx(1 / 3, abs=0.02)
    assert not repeated(np.full(60, 0.1, np.float32)).any()
    frozen = np.full(60, 20.0, np.float32)
    frozen[20:44] = 0.0
    found = repeats(np.arange(60) / 24, frozen)
    assert found.frozen_s == pytest.approx(1.0, abs=0.05)
    assert found.frozen_fraction == pytest.approx(24 / 59, abs=0.01)


def test_letters_are_found_where_they_are_and_scenery_has_none():
    luma = cv2.GaussianBlur(scenery(9), (0, 0), 1.0)
    assert text_lines(luma) == []
    cv2.putText(luma, "The meeting is at noon", (120, 320), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2)
    (line,) = text_lines(luma)
    assert line.y + line.height / 2 == pytest.approx(310 / 360, abs=0.03)
    assert line.width > 0.45


def test_a_mark_is_told_from_scenery_that_moves_and_not_from_one_that_stands():
    def stamped(luma: np.ndarray) -> np.ndarray:
        cv2.putText(luma, "TV", (540, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.6, 250, 5)
        return luma

    views = [np.roll(scenery(11), 37 * n, axis=1) for n in range(6)]
    assert fixed_marks(views).area == 0.0
    assert 0.002 < fixed_marks([stamped(view.copy()) for view in views]).area < 0.05
    assert fixed_marks([scenery(11)] * 6).scenery_fixed > 0.9
    assert fixed_marks(views[:3]) is None


def test_edges_along_a_pan_and_the_middle_of_a_zoom_are_no_marks():
    wall = cv2.GaussianBlur(scenery(13, 460, 900), (0, 0), 1.0)
    for x in range(160, 760, 150):  # boards with level edges: shifted along they lie on themselves
        cv2.rectangle(wall, (x, 200), (x + 110, 245), 40, -1)
        cv2.putText(wall, "HOTEL", (x + 8, 232), cv2.FONT_HERSHEY_DUPLEX, 0.8, 215, 2, cv2.LINE_AA)
    panned = [wall[50:410, 100 + 4 * n : 740 + 4 * n] for n in range(8)]
    assert fixed_marks(panned).area == 0.0
    centre = (320, 180)
    picture = cv2.GaussianBlur(scenery(14), (0, 0), 0.7)
    cv2.putText(picture, "12", (290, 195), cv2.FONT_HERSHEY_DUPLEX, 1.4, 230, 2, cv2.LINE_AA)
    zoomed = [cv2.warpAffine(picture, cv2.getRotationMatrix2D(centre, 0, 1.01**n), (640, 360)) for n in range(8)]
    y, x = np.mgrid[:360, :640]
    moving = np.hypot(x - 320, y - 180) > 150
    assert fixed_marks(zoomed, moving).area == 0.0


def test_one_who_walks_through_a_still_view_makes_no_marks_of_it():
    views = []
    for n in range(8):
        view = scenery(15).copy()
        x = 60 + 60 * n
        view[:, x : x + 150] = scenery(30 + n, 360, 150)
        views.append(view)
    found = fixed_marks(views)
    assert found.elsewhere > 0.7 or found.area == 0.0


def test_a_hand_that_sways_and_comes_back_has_travelled():
    swaying = travel(flow_curves(np.tile([0.02, -0.02], 25)), slice(0, 50), 16 / 9)
    assert swaying.min() == pytest.approx(0.02, abs=1e-4)
    zoomed = travel(flow_curves(np.zeros(50), zoom=0.004), slice(0, 50), 16 / 9)
    assert zoomed[8:10, 15:17].max() < 0.02 < zoomed[0, 0]
    assert travel(flow_curves(np.zeros(0)), slice(0, 0), 1.0).max() == 0.0


@pytest.mark.parametrize("step", [4, 8, 16])
def test_fields_of_two_moments_are_combed_and_whole_pictures_are_not(step):
    moments = [np.ascontiguousarray(scenery(21, 288, 400)[:, n * step : n * step + 352]) for n in range(4)]
    woven = []
    for top, bottom in (moments[:2], moments[2:]):
        woven.append(top.copy())
        woven[-1][1::2] = bottom[1::2]
    assert combing(*woven) > 1.1
    assert combing(moments[0], moments[2]) < 0.9


def test_what_stands_or_is_striped_or_noisy_is_not_combed():
    still = scenery(22)
    assert np.isnan(combing(still, still))
    rng = np.random.default_rng(0)
    grain = [np.clip(still + rng.normal(0, 12, still.shape), 16, 235).astype(np.uint8) for _ in range(2)]
    assert combing(*grain) < 1.05
    striped = [scenery(23, 360, 700)[:, n : n + 640].copy() for n in (0, 6)]
    for picture in striped:
        picture[100:200:2], picture[101:201:2] = 40, 200
    assert combing(*striped) < 0.9
