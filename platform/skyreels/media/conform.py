"""Any decoded picture to the one form that clips are stored in."""

from av.filter import Graph
from av.video.frame import VideoFrame

from skyreels.media.orientation import Orientation
from skyreels.media.picture import filter_graph, is_full_range, is_hdr, resolve_matrix

#: x, y, width, height in stored pixels of the upright picture
Crop = tuple[int, int, int, int]

# Bit-exact scaling: the same bytes on every processor, whatever vector instructions it has.
_SCALER = "flags=bicubic+accurate_rnd+bitexact:out_color_matrix=bt709:out_range=tv"
_SDR = ":out_transfer=bt709:out_primaries=bt709"
_TURNS: dict[int, list[tuple[str, str]]] = {
    0: [],
    90: [("transpose", "clock")],
    180: [("hflip", ""), ("vflip", "")],
    270: [("transpose", "cclock")],
}


class Conformer:
    """Crops, scales and turns pictures into upright 8-bit 4:2:0, limited-range BT.709, square pixels, `size` (w, h).

    HDR is brought to SDR with its reference white (203 cd/m2, BT.2408) at white; brighter parts clip.
    """

    def __init__(self, orientation: Orientation, size: tuple[int, int], crop: Crop | None = None) -> None:
        self._orientation = orientation
        self._size = size
        self._crop = crop
        self._graph: Graph | None = None
        self._shape: tuple[object, ...] = ()

    def __call__(self, picture: VideoFrame) -> VideoFrame:
        resolve_matrix(picture)
        shape = (picture.width, picture.height, picture.format.name, picture.colorspace, picture.color_range)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape = filter_graph(picture, self._steps(picture)), shape
        # The graph has no memory: each picture comes out at once, and its time is the caller's business.
        self._graph.vpush(picture)
        return self._graph.vpull()

    def _steps(self, picture: VideoFrame) -> list[tuple[str, str]]:
        steps = []
        if self._crop is not None:
            x, y, width, height = self._orientation.stored_rectangle(self._crop, (picture.width, picture.height))
            steps.append(("crop", f"w={width}:h={height}:x={x}:y={y}"))
        width, height = self._orientation.size(*self._size)
        target = _SDR if is_hdr(picture) else ""
        in_range = "pc" if is_full_range(picture) else "tv"
        steps.append(("scale", f"w={width}:h={height}:{_SCALER}:in_range={in_range}{target}"))
        steps += [("format", "yuv420p"), *_TURNS[self._orientation.rotation]]
        return [*steps, ("hflip", "")] if self._orientation.mirrored else steps
