"""Animated GIF, WebP and PNG as what they are: clips whose pictures have times of their own."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from skyreels.media.errors import MediaError
from skyreels.media.facts import VideoInfo
from skyreels.media.frame_rate import frame_rate
from skyreels.media.image import PILLOW_ERRORS, opaque, opened
from skyreels.media.limits import MediaLimits
from skyreels.media.orientation import Orientation
from skyreels.media.picture import DecodedFrame, Scalers
from skyreels.media.report import DecodeReport

_ANIMATED = frozenset({"gif", "webp", "png"})
_BASE = Fraction(1, 1000)
# As browsers do: what claims to be faster than this was never meant to be.
_SHORTEST_MS, _INSTEAD_MS = 10, 100


def is_animated(path: Path, kind: str, limits: MediaLimits) -> bool:
    """Whether the picture at `path`, of a `kind` in `sniff.IMAGES`, moves."""
    if kind not in _ANIMATED:
        return False
    with opened(path, limits) as image:
        return len(_shown(image)) > 1


def probe_animation(path: Path, limits: MediaLimits) -> VideoInfo:
    """Facts about the animation at `path`, every picture of which is decoded once for its time."""
    with opened(path, limits) as image:
        promised = len(_shown(image))
        if promised > limits.max_frames:
            raise MediaError("too_many_frames", f"Split it below {limits.max_frames} frames.", path.name)
        kind, (width, height), mode = (image.format or "").lower(), image.size, image.mode
        spans = [(start, stop) for start, stop, _ in _pictures(image, DecodeReport())]
    starts = np.array([start for start, _ in spans])
    rate = frame_rate(starts, _BASE, 1000 / Fraction(spans[0][1]) if spans else None)
    end_s = spans[-1][1] / 1000 if spans else 0.0
    if end_s > limits.max_duration_s:
        raise MediaError("too_long", f"Split it below {limits.max_duration_s:g} s.", f"{path.name} is {end_s:.1f} s")
    return VideoInfo(
        codec=kind, width=width, height=height, rotation=0, mirrored=False, pixel_aspect="1/1",
        fps=f"{rate.mean.numerator}/{rate.mean.denominator}", fps_float=float(rate.mean), vfr=rate.varies,
        steady_fps=f"{rate.steady.numerator}/{rate.steady.denominator}", pixel_format="rgb24", bit_depth=8,
        color_range="full", transfer="iec61966_2_1", primaries="bt709", hdr=False, interlaced=False,
        header_frames=promised, packets=len(spans), shown_packets=len(spans), duration_s=end_s, start_s=0.0,
        keyframe_times_s=tuple(start / 1000 for start, _ in spans), alpha="A" in mode or mode == "P",
    )  # fmt: skip


def animation_frames(
    path: Path, info: VideoInfo, limits: MediaLimits, start_s: float, end_s: float, report: DecodeReport
) -> Iterator[DecodedFrame]:
    """Every picture from the first to the last before `end_s`, transparency laid over black; those from `start_s` on
    are counted as promised."""
    scalers = Scalers()
    with opened(path, limits) as image:
        for start_ms, _, picture in _pictures(image, report):
            time_s = start_ms / 1000
            if time_s >= end_s:
                return
            report.nominal_frames += time_s >= start_s
            source = VideoFrame.from_ndarray(np.asarray(opaque(picture).convert("RGB")), format="rgb24")
            yield DecodedFrame(time_s, True, False, Orientation(), info.display_size, source, scalers)


def _pictures(image: Image.Image, report: DecodeReport) -> Iterator[tuple[int, int, Image.Image]]:
    """(start, end in ms, picture) as far as the file is whole."""
    clock_ms = 0
    for number in _shown(image):
        try:
            image.seek(number)
            image.load()
        except PILLOW_ERRORS as error:
            report.failed(error)
            return
        lasts_ms = round(image.info.get("duration") or 0)
        stop_ms = clock_ms + (lasts_ms if lasts_ms > _SHORTEST_MS else _INSTEAD_MS)
        yield clock_ms, stop_ms, image
        clock_ms = stop_ms


def _shown(image: Image.Image) -> range:
    """Numbers of the pictures that are shown: a PNG may carry one for readers that know no animation."""
    return range(1 if getattr(image, "default_image", False) else 0, getattr(image, "n_frames", 1))
