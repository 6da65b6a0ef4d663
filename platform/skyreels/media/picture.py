"""One decoded picture, converted only when and as far as somebody asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from skyreels.media.orientation import Orientation

_HD_SIDE = 720
_UNSPECIFIED = 2  # H.273: matrix coefficients nobody named
_BT709, _BT601 = 1, 6
_HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# Pictures whose first plane is luma, in bytes or in little-endian words.
_LUMA_FIRST = ("yuv4", "yuvj4", "yuva4", "nv12", "nv21", "nv16", "p010", "gray")
ANY_BASE = Fraction(1, 1_000_000)
"""Of times, where nobody asks for them."""
Filters = Sequence[tuple[str, str]]
"""FFmpeg's, each with its arguments."""
_FULL_TO_LIMITED = np.rint(np.arange(256) * (219 / 255) + 16).astype(np.uint8)


class Scalers:
    """The scalers of one decode, one for each kind of output: setting one up costs more than using it."""

    def __init__(self) -> None:
        self._by_output: dict[tuple[int, int, str], VideoReformatter] = {}

    def __call__(self, picture: VideoFrame, width: int, height: int, layout: str) -> VideoFrame:
        """`picture` at another size and pixel layout; averages when it shrinks.

        RGB comes out in full range, YUV as limited-range BT.709. HDR becomes SDR with its reference white
        (203 cd/m2, BT.2408) at white.
        """
        scaler = self._by_output.setdefault((width, height, layout), VideoReformatter())
        resolve_matrix(picture)
        rgb, hdr = layout.startswith(("rgb", "bgr")), is_hdr(picture)
        return scaler.reformat(
            picture,
            width,
            height,
            layout,
            dst_colorspace=None if rgb else Colorspace.ITU709,
            src_color_range=ColorRange.JPEG if is_full_range(picture) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG if rgb else ColorRange.MPEG,
            dst_color_trc=ColorTrc.BT709 if hdr else None,
            dst_color_primaries=ColorPrimaries.BT709 if hdr else None,
            interpolation="AREA" if width <= picture.width and height <= picture.height else "BICUBIC",
            threads=1,
        )


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A picture at `time_s`; its methods give upright arrays and cost nothing until called.

    `display_size` is (width, height) upright and in square pixels, the default size of `rgb` and `bgr`.
    `source` is the decoder's own picture, stored orientation and all.
    """

    time_s: float
    key_frame: bool
    corrupt: bool
    orientation: Orientation
    display_size: tuple[int, int]
    source: VideoFrame
    scalers: Scalers = field(default_factory=Scalers, repr=False)

    def rgb(self, width: int | None = None, height: int | None = None) -> np.ndarray:
        """(height, width, 3) uint8 full-range RGB, stretched to the size given."""
        return self._packed("rgb24", width, height)

    def bgr(self, width: int | None = None, height: int | None = None) -> np.ndarray:
        """(height, width, 3) uint8 full-range BGR, stretched to the size given."""
        return self._packed("bgr24", width, height)

    def luma(self) -> np.ndarray:
        """(H, W) uint8 luma in stored pixels, upright, black 16, white 235; the decoder's own plane if it can be.

        Do not write into it. Full-range and deeper sources are converted.
        """
        source = self.source
        name = source.format.name
        if not name.startswith(_LUMA_FIRST) or name.endswith("be"):
            source = self.scalers(source, source.width, source.height, "yuv420p")
            name = source.format.name
        plane = _first_plane(source)
        if plane.dtype != np.uint8:
            # p010 keeps its ten bits at the top of the word.
            plane = (plane >> (8 if name.startswith("p0") else source.format.components[0].bits - 8)).astype(np.uint8)
        if is_full_range(source):
            plane = _FULL_TO_LIMITED[plane]
        return self.orientation.apply(plane)

    def _packed(self, layout: str, width: int | None, height: int | None) -> np.ndarray:
        stored = self.orientation.size(width or self.display_size[0], height or self.display_size[1])
        return self.orientation.apply(self.scalers(self.source, *stored, layout).to_ndarray())


def resolve_matrix(picture: VideoFrame) -> None:
    """Give a YUV picture that names no matrix the one players assume: BT.709 for HD sizes, BT.601 below."""
    if picture.colorspace == _UNSPECIFIED and not picture.format.is_rgb:
        picture.colorspace = _BT709 if max(picture.height, picture.width) >= _HD_SIDE else _BT601


def is_full_range(picture: VideoFrame) -> bool:
    """Whether black is 0 rather than 16; grey and RGB layouts always are."""
    return picture.color_range == ColorRange.JPEG or picture.format.name.startswith(
        ("yuvj", "gray", "rgb", "bgr", "gbr")
    )


def is_hdr(picture: VideoFrame) -> bool:
    return picture.color_trc in _HDR_TRANSFERS


def _first_plane(picture: VideoFrame) -> np.ndarray:
    """(H, W) view of the first plane: uint8, or little-endian uint16 for deep pictures."""
    plane = picture.planes[0]
    kind = np.dtype(np.uint8) if picture.format.components[0].bits == 8 else np.dtype("<u2")
    rows = np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // kind.itemsize)
    return rows[: picture.height, : picture.width]


def filter_graph(picture: VideoFrame, filters: Filters) -> Graph:
    """Takes pictures like this one through the filters, in one thread; times are counted as this one counts its own."""
    graph = Graph()
    graph.threads = 1
    base = picture.time_base or ANY_BASE
    last = graph.add(
        "buffer",
        f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}"
        f":time_base={base.numerator}/{base.denominator}"
        f":pixel_aspect=1/1:colorspace={int(picture.colorspace)}:range={int(picture.color_range)}",
    )
    for name, arguments in filters:
        node = graph.add(name, arguments or None)
        last.link_to(node)
        last = node
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    return graph
