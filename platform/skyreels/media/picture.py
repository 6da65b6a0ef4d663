"""One decoded picture, converted only when and as far as somebody asks."""

from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from skyreels.media.orientation import Orientation

_UNSPECIFIED = 2  # H.273 code point of the matrix coefficients
_HD_HEIGHT = 720
# Pictures whose first plane is luma in whole bytes or in little-endian words.
_LUMA_FIRST = ("yuv4", "yuvj4", "yuva4", "nv12", "nv21", "nv16", "p010", "gray")


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A picture at `time_s`; its methods give upright arrays and cost nothing until called.

    `display_size` is (width, height) upright and in square pixels, the default size of `rgb` and `bgr`.
    """

    time_s: float
    key_frame: bool
    corrupt: bool
    orientation: Orientation
    display_size: tuple[int, int]
    source: VideoFrame

    def rgb(self, width: int | None = None, height: int | None = None) -> np.ndarray:
        """(height, width, 3) uint8 full-range RGB, stretched to the size given."""
        return self._packed("rgb24", width, height)

    def bgr(self, width: int | None = None, height: int | None = None) -> np.ndarray:
        """(height, width, 3) uint8 full-range BGR, stretched to the size given."""
        return self._packed("bgr24", width, height)

    def luma(self) -> np.ndarray:
        """(H, W) uint8 luma in stored pixels, upright, black 16 and white 235; the decoder's own plane where it can be.

        Do not write into it. Full-range and deeper sources are converted.
        """
        source = self.source
        name = source.format.name
        if not name.startswith(_LUMA_FIRST) or name.endswith("be"):
            source = source.reformat(format="yuv420p", dst_color_range=ColorRange.MPEG)
            name = source.format.name
        plane = _first_plane(source)
        if source.format.components[0].bits > 8:
            # p010 keeps its ten bits at the top of the word.
            shift = 8 if name.startswith("p0") else source.format.components[0].bits - 8
            plane = (plane >> shift).astype(np.uint8)
        if is_full_range(source):
            plane = _FULL_TO_LIMITED[plane]
        return self.orientation.apply(plane)

    def _packed(self, layout: str, width: int | None, height: int | None) -> np.ndarray:
        size = (width or self.display_size[0], height or self.display_size[1])
        stored = self.orientation.size(*size)
        picture = rescale(self.source, *stored, layout)
        return self.orientation.apply(picture.to_ndarray())


def rescale(source: VideoFrame, width: int, height: int, layout: str) -> VideoFrame:
    """`source` at another size and pixel layout; averages when it shrinks.

    RGB comes out in full range, YUV as limited-range BT.709. A source that does not name its matrix is read as
    BT.709 from 720 lines on and as BT.601 below, as players do.
    """
    matrix = None
    if source.colorspace == _UNSPECIFIED:
        matrix = Colorspace.ITU709 if max(source.height, source.width) >= _HD_HEIGHT else Colorspace.ITU601
    to_rgb = layout.startswith(("rgb", "bgr"))
    return source.reformat(
        width,
        height,
        layout,
        src_colorspace=matrix,
        dst_colorspace=None if to_rgb else Colorspace.ITU709,
        src_color_range=ColorRange.JPEG if is_full_range(source) else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG if to_rgb else ColorRange.MPEG,
        interpolation="AREA" if width <= source.width and height <= source.height else "BICUBIC",
    )


def is_full_range(source: VideoFrame) -> bool:
    name = source.format.name
    return source.color_range == ColorRange.JPEG or name.startswith(("yuvj", "gray", "rgb", "bgr", "gbr"))


def _first_plane(source: VideoFrame) -> np.ndarray:
    """(H, W) view of the first plane: uint8, or uint16 for deep pictures."""
    plane = source.planes[0]
    kind = np.dtype(np.uint8) if source.format.components[0].bits == 8 else np.dtype("<u2")
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
    return rows[: source.height, : source.width]


_FULL_TO_LIMITED = np.rint(np.arange(256) * (219 / 255) + 16).astype(np.uint8)
