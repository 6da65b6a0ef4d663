"""Consumers of the decode pass: each sees every frame once, keeps a few numbers and gives curves at the end."""

from array import array
from collections import deque
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.blur import sharpness
from pipelines.curation.visual.combing import combing
from pipelines.curation.visual.exposure import blown_fraction, exposure
from pipelines.curation.visual.motion import camera_flow
from pipelines.curation.visual.perceptual_hash import perceptual_hash
from pipelines.curation.visual.shots import ContentChange
from pipelines.curation.visual.timeline import BlendCurves, CombCurve, FlowCurves, FrameCurves, Looks
from pipelines.curation.visual.transitions import BLEND_HALVES_S, blend, superposition
from pipelines.curation.visual.working_frame import WorkingFrame, halve_to
from pipelines.overlays.borders import lit_profiles

_BLOCKS = (32, 18)
_BLEND_RATE = 12.0
_COMB_INTERVAL_S = 0.43
_FLOW_SIDE = 192
_PROFILE_SIDE = 1440
_DETAIL_SIDE, _DETAIL = 192, (5, 5)  # pixels: what such a mean takes away is detail, and no noise yet


class Clock:
    """Says when the next moment of a slower rate has come. After a gap in the times it starts anew.

    `due_s` is when it strikes next: at once, unless it goes on from where another stopped.
    """

    def __init__(self, interval_s: float, due_s: float = -np.inf) -> None:
        self._interval_s = interval_s
        self.due_s = due_s

    def strikes(self, time_s: float) -> bool:
        late_s = time_s - self.due_s
        if late_s < -1e-6:
            return False
        self.due_s = (self.due_s if late_s < self._interval_s else time_s) + self._interval_s
        return True


class FrameMeter:
    """`FrameCurves`: exposure and change of every frame."""

    def __init__(self) -> None:
        self._times, self._values = array("d"), array("f")
        self._steps = array("f")
        self._content_change = ContentChange()
        self._last: NDArray[np.uint8] | None = None
        self._thumbs: deque[NDArray[np.uint8]] = deque(maxlen=4)

    def see(self, frame: WorkingFrame) -> None:
        small = frame.small
        luma_change = block_change = 0.0
        if self._last is not None:
            change = cv2.absdiff(small, self._last)
            luma_change = cv2.mean(change)[0]
            block_change = float(cv2.resize(change, _BLOCKS, interpolation=cv2.INTER_AREA).max())
        self._last = small
        self._times.append(frame.time_s)
        hsv = cv2.cvtColor(frame.small_bgr, cv2.COLOR_BGR2HSV)
        light = (*exposure(small), blown_fraction(hsv))
        self._values.extend((*light, self._content_change(hsv), luma_change, block_change))
        self._thumbs.append(frame.thumb)
        if len(self._thumbs) > 1:
            self._steps.append(cv2.norm(self._thumbs[-1], self._thumbs[0], cv2.NORM_L1) / self._thumbs[0].size)

    def curves(self) -> FrameCurves:
        values = np.array(self._values, np.float32).reshape(len(self._times), -1)
        # The step across frame i is known with frame i + 1: the last frame has none.
        steps = np.array([*self._steps, 0.0][: len(self._times)], np.float32)
        columns = [*np.ascontiguousarray(values.T), steps]
        return FrameCurves(np.array(self._times), *columns)


class _Moment(NamedTuple):
    time_s: float
    picture: NDArray[np.float32]  # (18, 32, 3)
    detail: float  # mean square


class BlendMeter:
    """`BlendCurves`: keeps 2 s of thumbnails and measures the moment 1 s ago. At both ends the picture stands still."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or self.clock()
        self._reaches = [round(half * _BLEND_RATE) for half in BLEND_HALVES_S]
        self._middle = max(self._reaches)
        self._kept: deque[_Moment] = deque(maxlen=2 * self._middle + 1)
        self._times, self._values = array("d"), array("f")

    @staticmethod
    def clock() -> Clock:
        return Clock(1.0 / _BLEND_RATE)

    def see(self, frame: WorkingFrame) -> None:
        if not self._clock.strikes(frame.time_s):
            return
        luma = halve_to(frame.small, _DETAIL_SIDE)
        detail = cv2.norm(luma, cv2.blur(luma, _DETAIL), cv2.NORM_L2SQR) / luma.size
        moment = _Moment(frame.time_s, frame.thumb.astype(np.float32), detail)
        if not self._kept:
            self._kept.extend([moment] * self._middle)
        self._push(moment)

    def curves(self) -> BlendCurves:
        if self._kept:
            last = self._kept[-1]
            for _ in range(self._middle):
                self._push(last)
        values = np.array(self._values, np.float32).reshape(len(self._times), len(BLEND_HALVES_S), 4)
        return BlendCurves(np.array(self._times), BLEND_HALVES_S, *np.moveaxis(values, -1, 0))

    def _push(self, moment: _Moment) -> None:
        self._kept.append(moment)
        if len(self._kept) <= 2 * self._middle:
            return
        middle = self._kept[self._middle]
        self._times.append(middle.time_s)
        for reach in self._reaches:
            before, after = self._kept[self._middle - reach], self._kept[self._middle + reach]
            found = blend(before.picture, middle.picture, after.picture)
            self._values.extend((*found, superposition(found.weight, before.detail, middle.detail, after.detail)))


class FlowMeter:
    """`FlowCurves`: movement since the last moment of the flow's own rate."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: tuple[float, NDArray[np.uint8]] | None = None
        self._times, self._values = array("d"), array("f")

    def see(self, frame: WorkingFrame) -> None:
        if not self._clock.strikes(frame.time_s):
            return
        luma = halve_to(frame.small, _FLOW_SIDE)
        if self._last is not None:
            interval_s = frame.time_s - self._last[0]
            flow = camera_flow(self._last[1], luma)
            self._times.append(frame.time_s)
            self._values.extend((interval_s, *flow, float(cv2.meanStdDev(luma)[1][0, 0])))
        self._last = (frame.time_s, luma)

    def curves(self) -> FlowCurves:
        values = np.array(self._values, np.float32).reshape(-1, 8)
        return FlowCurves(np.array(self._times), *np.ascontiguousarray(values.T))


class LookMeter:
    """`Looks`: what needs the full-size luma plane, a few times a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times, self._sharpness = array("d"), array("f")
        self._hashes = array("Q")
        self._rows: list[NDArray[np.uint8]] = []
        self._columns: list[NDArray[np.uint8]] = []

    def see(self, frame: WorkingFrame) -> None:
        if not self._clock.strikes(frame.time_s):
            return
        self._times.append(frame.time_s)
        self._sharpness.extend(sharpness(frame.luma))
        self._hashes.append(perceptual_hash(frame.small))
        rows, columns = lit_profiles(halve_to(frame.luma, _PROFILE_SIDE))
        self._rows.append(rows)
        self._columns.append(columns)

    def curves(self) -> Looks:
        overall, peak = np.array(self._sharpness, np.float32).reshape(-1, 2).T
        return Looks(
            np.array(self._times),
            overall,
            peak,
            np.array(self._rows, np.uint8).reshape(len(self._times), -1),
            np.array(self._columns, np.uint8).reshape(len(self._times), -1),
            np.array(self._hashes, np.uint64),
        )


class CombMeter:
    """`CombCurve`: needs two frames in a row, a few times a second."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or self.clock()
        self._last: NDArray[np.uint8] | None = None
        self._times, self._combing = array("d"), array("f")

    @staticmethod
    def clock() -> Clock:
        return Clock(_COMB_INTERVAL_S)

    def see(self, frame: WorkingFrame) -> None:
        if self._last is not None and self._clock.strikes(frame.time_s):
            self._times.append(frame.time_s)
            self._combing.append(combing(self._last, frame.luma))
        self._last = frame.luma

    def curve(self) -> CombCurve:
        return CombCurve(np.array(self._times), np.array(self._combing, np.float32))
