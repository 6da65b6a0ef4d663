"""How much moves, and whether it is the camera: dense flow between frames ~0.1 s apart, and the camera's part in it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.timeline import FlowCurves

_GRID = (32, 18)
_MIN_SEARCH = 96
_FITS = 2
_SHAKE_WINDOW_S = 1.0


class Flow(NamedTuple):
    """Between two frames, in fractions of the diagonal; see `FlowCurves`."""

    dx: float
    dy: float
    zoom: float
    roll: float
    speed: float
    object_speed: float


def camera_flow(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Flow:
    """Between two lumas of one small size (192 pixels are plenty): dense inverse search at its coarsest setting."""
    height, width = before.shape
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow = search.calc(_padded(before), _padded(after), None)[:height, :width]
    cells = cv2.resize(flow, _GRID, interpolation=cv2.INTER_AREA)
    return fit_camera(cells / np.float32(np.hypot(*before.shape)), before.shape)


def _padded(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At least 96 pixels a side: on small pictures the search reads beyond its coarsest level and crashes."""
    down, right = (max(0, _MIN_SEARCH - side) for side in luma.shape)
    return cv2.copyMakeBorder(luma, 0, down, 0, right, cv2.BORDER_REPLICATE) if down or right else luma


def fit_camera(flow: NDArray[np.float32], shape: tuple[int, ...]) -> Flow:
    """The similarity (shift, zoom, roll) that most of a (18, 32, 2) flow grid follows, and what is left over.

    Least squares, re-weighted so that what moves by itself does not count (Geman-McClure weights).
    `shape` is the (height, width) of the picture, for its aspect ratio.
    """
    x, y = _grid(shape[1] / shape[0])
    u, v = flow[..., 0].ravel(), flow[..., 1].ravel()
    dx, dy, zoom, roll = float(np.median(u)), float(np.median(v)), 0.0, 0.0
    for _ in range(_FITS):
        left = (u - (dx + zoom * x - roll * y)) ** 2 + (v - (dy + zoom * y + roll * x)) ** 2
        weight = 1.0 / (1.0 + left / (float(np.median(left)) + 1e-7)) ** 2
        total = float(weight.sum())
        mean_x, mean_y = float(weight @ x) / total, float(weight @ y) / total
        mean_u, mean_v = float(weight @ u) / total, float(weight @ v) / total
        cx, cy, cu, cv = x - mean_x, y - mean_y, u - mean_u, v - mean_v
        spread = float(weight @ (cx * cx + cy * cy))
        zoom = float(weight @ (cx * cu + cy * cv)) / spread
        roll = float(weight @ (cx * cv - cy * cu)) / spread
        dx, dy = mean_u - zoom * mean_x + roll * mean_y, mean_v - zoom * mean_y - roll * mean_x
    left = (u - (dx + zoom * x - roll * y)) ** 2 + (v - (dy + zoom * y + roll * x)) ** 2
    return Flow(dx, dy, zoom, roll, float(np.hypot(u, v).mean()), float(np.sqrt(left).mean()))


@lru_cache(maxsize=64)
def _grid(aspect: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of the grid's cells from the centre, in diagonals."""
    height = 1.0 / np.hypot(1.0, aspect)
    columns = (np.arange(_GRID[0], dtype=np.float32) + 0.5) / _GRID[0] - 0.5
    rows = (np.arange(_GRID[1], dtype=np.float32) + 0.5) / _GRID[1] - 0.5
    x, y = np.meshgrid(columns * height * aspect, rows * height)
    return x.ravel().astype(np.float32), y.ravel().astype(np.float32)


@dataclass(frozen=True)
class CameraThresholds:
    """Where a movement gets its name. Speeds in diagonals (zoom: scale) per second, shake in diagonals."""

    pan: float = 0.03
    zoom: float = 0.03
    roll: float = 0.05  # radians per second
    shake: float = 0.004


class MotionSummary(NamedTuple):
    """Of a span. Speeds in diagonals per second; `shake` is the RMS distance of the camera from its smooth path."""

    motion: float
    object_motion: float
    pan_x: float
    pan_y: float
    zoom: float
    roll: float
    shake: float
    moving_fraction: float


def summarise(flow: FlowCurves, span: slice) -> MotionSummary | None:
    """The motion within `span` of the curves; None where it holds no pair of frames."""
    interval = flow.interval_s[span].astype(np.float64)
    seconds = float(interval.sum())
    if seconds <= 0:
        return None

    def per_second(values: NDArray[np.float32]) -> float:
        return float(values[span].astype(np.float64).sum() / seconds)

    speeds = flow.speed[span] / interval
    return MotionSummary(
        motion=per_second(flow.speed),
        object_motion=per_second(flow.object_speed),
        pan_x=per_second(flow.dx),
        pan_y=per_second(flow.dy),
        zoom=per_second(flow.zoom),
        roll=per_second(flow.roll),
        shake=_shake(flow, span, seconds / len(interval)),
        moving_fraction=float((speeds > 0.01).mean()),
    )


def travel(flow: FlowCurves, span: slice, aspect: float) -> NDArray[np.float32]:
    """(18, 32): how far from end to end the camera moves each part of the picture within `span`, in diagonals.

    `aspect` is width over height. The path counts, not its end: a hand sways and comes back.
    """
    x, y = _grid(aspect)
    dx, dy, zoom, roll = (
        np.cumsum(values[span])[:, None] if len(values[span]) else np.zeros((1, 1), np.float32)
        for values in (flow.dx, flow.dy, flow.zoom, flow.roll)
    )
    across, down = dx + zoom * x - roll * y, dy + zoom * y + roll * x
    return np.hypot(np.ptp(across, axis=0), np.ptp(down, axis=0)).reshape(_GRID[::-1]).astype(np.float32)


def _shake(flow: FlowCurves, span: slice, step_s: float) -> float:
    """RMS distance between the camera's path and a parabola fitted around each moment (1 s)."""
    path = np.cumsum(np.stack([flow.dx[span], flow.dy[span]]).astype(np.float64), axis=1)
    window = round(_SHAKE_WINDOW_S / step_s) // 2 * 2 + 1
    if path.shape[1] < window or window < 5:
        return 0.0
    around = np.lib.stride_tricks.sliding_window_view(path, window, axis=1)
    parabola = np.vander(np.linspace(-1, 1, window), 3)
    fitted = around @ np.linalg.pinv(parabola).T @ parabola[window // 2]
    return float(np.sqrt(((around[..., window // 2] - fitted) ** 2).sum(axis=0).mean()))


def camera_label(summary: MotionSummary, thresholds: CameraThresholds) -> str:
    """static | pan_left | pan_right | tilt_up | tilt_down | zoom_in | zoom_out | roll | handheld.

    The camera turns against the picture: a picture that drifts left is a pan to the right.
    """
    if summary.shake > thresholds.shake:
        return "handheld"
    ratios = {
        "pan": abs(summary.pan_x) / thresholds.pan,
        "tilt": abs(summary.pan_y) / thresholds.pan,
        "zoom": abs(summary.zoom) / thresholds.zoom,
        "roll": abs(summary.roll) / thresholds.roll,
    }
    name = max(ratios, key=lambda key: ratios[key])
    if ratios[name] < 1:
        return "static"
    directions = {
        "pan": "pan_left" if summary.pan_x > 0 else "pan_right",
        "tilt": "tilt_up" if summary.pan_y > 0 else "tilt_down",
        "zoom": "zoom_in" if summary.zoom > 0 else "zoom_out",
        "roll": "roll",
    }
    return directions[name]
