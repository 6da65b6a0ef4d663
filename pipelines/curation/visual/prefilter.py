"""Cheap early scores from key frames alone, so that a hopeless source is turned away before it is decoded.

Whether it is hopeless is for `pipelines.curation.filters.first_broken` to say, with the recipe's rules.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipelines.curation.visual.blur import sharpness
from pipelines.curation.visual.exposure import exposure
from pipelines.curation.visual.working_frame import WorkingFrame, measurable_video
from pipelines.overlays.borders import crop_box, lit_profiles
from skyreels.media.decode import iter_video_frames
from skyreels.media.facts import Probe
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits


class PrefilterScores(BaseModel):
    """Of a whole source; luma is 0-255 with black at 16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    short_side: int = Field(description="of the upright picture without black bars, pixels")
    duration_s: float = Field(description="of the video stream, seconds")
    fps: float = Field(description="mean frame rate")
    key_frames: int = Field(description="key frames measured")
    luma_mean: float = Field(description="median over key frames of the mean luma")
    contrast: float = Field(description="median over key frames of the standard deviation of luma")
    dark_fraction: float = Field(description="share of key frames whose 97th percentile of luma is below 40")
    sharpness: float | None = Field(description="median, as in VisualScores; None where nothing has an edge")
    static_fraction: float | None = Field(description="share of successive key frames with the same picture")
    border_fraction: float = Field(description="share of the frame taken by black bars")


_DARK = 40
_SAME = 2.0  # mean absolute difference of two key frames' thumbnails, in levels


def prefilter_scores(
    path: str | Path,
    probe: Probe,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    max_key_frames: int = 400,
) -> PrefilterScores:
    """Decode only key frames, evenly thinned to at most `max_key_frames` measured ones. Raises `MediaError`."""
    video = measurable_video(path, probe)
    stride = -(-max(1, video.keyframes) // max_key_frames)
    light, sharp, thumbs, rows, columns = [], [], [], [], []
    for index, frame in enumerate(iter_video_frames(path, probe, limits=limits, keyframes_only=True)):
        if index % stride:
            continue
        working = WorkingFrame(frame, video.width, video.height)
        light.append(exposure(working.small))
        sharp.append(sharpness(working.luma).overall)
        thumbs.append(working.thumb.astype(np.int16))
        lit_rows, lit_columns = lit_profiles(working.luma)
        rows.append(lit_rows)
        columns.append(lit_columns)
    steps = [float(np.abs(after - before).mean()) for before, after in pairwise(thumbs)]
    known = [value for value in sharp if not np.isnan(value)]
    box = crop_box(np.array(rows), np.array(columns), video.width, video.height)
    return PrefilterScores(
        short_side=min(box.width, box.height),
        duration_s=video.duration_s,
        fps=video.fps_float,
        key_frames=len(light),
        luma_mean=float(np.median([e.mean for e in light])),
        contrast=float(np.median([e.std for e in light])),
        dark_fraction=float(np.mean([e.high < _DARK for e in light])),
        sharpness=float(np.median(known)) if known else None,
        static_fraction=float(np.mean([step < _SAME for step in steps])) if steps else None,
        border_fraction=1.0 - box.width * box.height / (video.width * video.height),
    )
