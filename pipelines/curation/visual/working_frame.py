"""The few small pictures that all measurements of one frame share, each made once."""

from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from skyreels.media.decode import DecodedFrame
from skyreels.media.errors import MediaError
from skyreels.media.facts import Probe, VideoInfo
from skyreels.media.picture import is_full_range

Gray = NDArray[np.uint8]
SMALL_SIDE = 384
MIN_SIDE, MAX_ASPECT = 48, 5  # smaller or longer pictures are not measured
_SHORTEST = 16
_PLANAR_420 = ("yuv420p", "yuvj420p")
_FULL_TO_LIMITED_CHROMA = np.rint((np.arange(256) - 128) * (224 / 255) + 128).astype(np.uint8)


class WorkingFrame:
    """One decoded frame: its full luma plane, a small picture (200 to 384 pixels long), a thumbnail. All upright."""

    def __init__(self, frame: DecodedFrame, width: int, height: int) -> None:
        """`width` x `height` is the source's upright size; frames of another one (some streams change) are scaled."""
        self._frame = frame
        self._shape = (height, width)
        self.time_s = frame.time_s

    @cached_property
    def luma(self) -> Gray:
        """(H, W) the whole luma plane, 16 to 235."""
        luma = np.ascontiguousarray(self._frame.luma())
        if luma.shape != self._shape:
            luma = cv2.resize(luma, self._shape[::-1], interpolation=cv2.INTER_AREA)
        return luma

    @cached_property
    def small(self) -> Gray:
        """(h, w) luma."""
        return halve_to(self.luma, SMALL_SIDE)

    @cached_property
    def small_bgr(self) -> NDArray[np.uint8]:
        """(h, w, 3) like `small`, cut to h % 4 == 0 and w % 2 == 0; colours by BT.601, near enough for measuring."""
        height, width = self.small.shape[0] // 4 * 4, self.small.shape[1] // 2 * 2
        if self._frame.source.format.name not in _PLANAR_420:
            return self._frame.bgr(width, height)
        halvings = round(np.log2(self.luma.shape[0] / self.small.shape[0]))
        chroma = [self._chroma(plane, halvings, width // 2, height // 2) for plane in (1, 2)]
        planes = [self.small[:height, :width], *(c.reshape(height // 4, width) for c in chroma)]
        return cv2.cvtColor(np.concatenate(planes), cv2.COLOR_YUV2BGR_I420)

    @cached_property
    def thumb(self) -> NDArray[np.uint8]:
        """(18, 32, 3) BGR."""
        return cv2.resize(self.small_bgr, (32, 18), interpolation=cv2.INTER_AREA)

    @cached_property
    def shot_thumb(self) -> NDArray[np.uint8]:
        """(27, 48, 3) RGB, the whole picture whatever its shape: what shot networks are trained on."""
        return cv2.cvtColor(cv2.resize(self.small_bgr, (48, 27), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)

    @cached_property
    def tiny(self) -> Gray:
        """(h, w) luma, no side above 64."""
        return halve_to(self.small, 64)

    def jpeg(self, short_side: int, quality: int) -> bytes:
        """The picture in true colours with its short side at `short_side`, never enlarged."""
        width, height = self._frame.display_size
        scale = min(1.0, short_side / min(width, height))
        bgr = self._frame.bgr(max(1, round(width * scale)), max(1, round(height * scale)))
        return cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    def _chroma(self, index: int, halvings: int, width: int, height: int) -> Gray:
        plane = self._frame.source.planes[index]
        stored = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        chroma = np.ascontiguousarray(self._frame.orientation.apply(stored))
        for _ in range(halvings):
            chroma = _halve(chroma)
        if chroma.shape != (height, width):
            chroma = cv2.resize(chroma, (width, height), interpolation=cv2.INTER_LINEAR)
        return _FULL_TO_LIMITED_CHROMA[chroma] if is_full_range(self._frame.source) else chroma


def measurable_video(path: str | Path, probe: Probe) -> VideoInfo:
    """The file's video stream; `MediaError` `no_video_stream` or `too_small` where there is nothing to measure."""
    if probe.video is None:
        raise MediaError("no_video_stream", "Send a file with a picture, or use it as sound.", Path(path).name)
    short, long = sorted((probe.video.width, probe.video.height))
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        remedy = f"Send a video of at least {MIN_SIDE} pixels a side and no longer than {MAX_ASPECT}:1."
        size = f"{Path(path).name} is {probe.video.width}x{probe.video.height}"
        raise MediaError("too_small", remedy, size)
    return probe.video


def halve_to(luma: Gray, long_side: int) -> Gray:
    """Halved by 2 x 2 means while a side is above `long_side` and the other one has 32 or more.

    Exact halving is ten times faster than any other ratio.
    """
    while max(luma.shape) > long_side and min(luma.shape) >= 2 * _SHORTEST:
        luma = _halve(luma)
    return luma


def _halve(plane: Gray) -> Gray:
    height, width = plane.shape[0] // 2, plane.shape[1] // 2
    return cv2.resize(plane[: height * 2, : width * 2], (width, height), interpolation=cv2.INTER_AREA)
