"""Decoded pictures made plain before anybody sees them: fields become frames, and transparency lies over black."""

from collections.abc import Iterator
from typing import cast

from av.codec.context import CodecContext
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as NothingMore
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from skyreels.media.picture import ANY_BASE, Filters, filter_graph, resolve_matrix

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

# The same rate as before: one frame per pair of fields, and none for pictures that are whole already.
_DEINTERLACE: Filters = (("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),)
# Bit-exact conversion: the same bytes on every processor.
_CONVERT = ("scale", "flags=bicubic+accurate_rnd+bitexact")
_DEPTHS = {8: "", 10: "10le", 12: "12le"}  # others are done in 16 bits


def has_alpha(picture: VideoFrame) -> bool:
    """Whether pixels of `picture` may be transparent; a palette's colours may be."""
    return picture.format.name == "pal8" or any(component.is_alpha for component in picture.format.components)


def alpha_decoder(stream: VideoStream) -> VideoCodecContext | None:
    """A decoder for VP8 and VP9 whose transparency is coded beside the picture, where FFmpeg's own do not look."""
    name = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    return cast(VideoCodecContext, CodecContext.create(name, "r"))


class Deinterlacer:
    """Turns interlaced pictures into whole ones at the same rate, from the first one on; what comes before passes.

    Field order is that of each picture; those that are not flagged as interlaced stay as they are.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[object, ...] = ()
        self._base = ANY_BASE

    def __call__(self, picture: VideoFrame) -> Iterator[VideoFrame]:
        """What is ready once `picture` is known; the last one only is after `rest`."""
        if self._graph is None and not picture.interlaced_frame:
            yield picture
            return
        resolve_matrix(picture)
        if self._graph is None or _shape(picture) != self._shape:
            yield from self.rest()
            self._graph, self._shape = filter_graph(picture, _DEINTERLACE), _shape(picture)
            self._base = picture.time_base or ANY_BASE
        self._graph.vpush(picture)
        yield from self._ready(self._graph)

    def rest(self) -> Iterator[VideoFrame]:
        """What is still held back."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready(self._graph)
            self._graph = None

    def _ready(self, graph: Graph) -> Iterator[VideoFrame]:
        while True:
            try:
                made = graph.vpull()
            except (NothingYet, NothingMore):
                return
            if made.pts is not None and made.time_base is not None:  # the filter counts in half ticks
                made.pts = round(made.pts * made.time_base / self._base)
                made.time_base = self._base
            yield made


class OverBlack:
    """Lays transparent pictures over black, as players and still pictures do; opaque ones pass."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[object, ...] = ()

    def __call__(self, picture: VideoFrame) -> VideoFrame:
        if not has_alpha(picture):
            return picture
        resolve_matrix(picture)
        if self._graph is None or _shape(picture) != self._shape:
            self._graph, self._shape = filter_graph(picture, _over_black(picture)), _shape(picture)
        self._graph.vpush(picture)
        return self._graph.vpull()


def _over_black(picture: VideoFrame) -> Filters:
    name, bits = picture.format.name, picture.format.components[0].bits
    depth = _DEPTHS.get(bits, "16le") if name != "pal8" else ""
    blended, kept = ("yuva444p", "yuv444p") if name.startswith("yuva") else ("gbrap", "gbrp")
    return (
        _CONVERT,
        ("format", blended + depth),
        ("premultiply", "inplace=1"),
        _CONVERT,
        ("format", kept + depth),
    )


def _shape(picture: VideoFrame) -> tuple[object, ...]:
    return picture.width, picture.height, picture.format.name, picture.colorspace, picture.color_range
