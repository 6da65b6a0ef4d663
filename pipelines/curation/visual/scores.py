"""From a timeline to the numbers of one clip. No verdicts: a recipe's rules compare them with its thresholds."""

from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.curation.visual.blur import sharpness
from pipelines.curation.visual.duplicates import repeats
from pipelines.curation.visual.exposure import blown_fraction_rgb, exposure
from pipelines.curation.visual.motion import CameraThresholds, camera_label, summarise, travel
from pipelines.curation.visual.perceptual_hash import perceptual_hash
from pipelines.curation.visual.sampled_frames import read_luma
from pipelines.curation.visual.timeline import Timeline
from pipelines.curation.visual.working_frame import SMALL_SIDE, Gray, halve_to
from pipelines.overlays.borders import CropBox, crop_box, lit_profiles
from pipelines.overlays.marks import fixed_marks
from pipelines.overlays.overlaid_text import sort_text
from pipelines.overlays.text import TextLine, text_lines

_SCENE_MOVES = 0.02  # diagonals within a clip: where the camera moves the scenery so far, what stays is a mark
_SOURCE_SAMPLES = 48
_RIM = 3  # pixels of a sampled frame
_Pixel = TypeVar("_Pixel", bound=np.generic)


class VisualScores(BaseModel):
    """What was measured on a clip or an image; None where a measurement says nothing (an image has no motion).

    Luma is 0-255 with black at 16 and white at 235; speeds are in diagonals of the frame per second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    luma_mean: float = Field(description="mean luma")
    contrast: float = Field(description="mean standard deviation of luma within a frame")
    dark_fraction: float = Field(description="share of pixels with luma < 32")
    bright_fraction: float = Field(description="share of pixels with luma > 229")
    blown_fraction: float = Field(description="share of pixels with a colour channel at its ceiling")
    luma_flicker: float | None = Field(None, description="standard deviation of the frames' mean luma over time")
    sharpness: float | None = Field(None, description="0-1, share of edge contrast that a 9-tap blur removes; median")
    sharpness_peak: float | None = Field(None, description="the same for the sharpest tenth of the picture")
    border_fraction: float = Field(description="share of the frame taken by black bars")
    text_area: float = Field(description="share of the picture inside lines of text; in a clip, of text laid over it")
    scene_text_area: float | None = Field(None, description="share of the picture inside text that the scene moves")
    subtitle_fraction: float | None = Field(
        None, description="share of samples with a line in the lower third's middle"
    )
    watermark_area: float | None = Field(None, description="share of the picture inside marks that never move")
    motion: float | None = Field(None, description="mean optical flow")
    object_motion: float | None = Field(None, description="mean optical flow that the camera does not explain")
    pan_x: float | None = Field(None, description="the picture's drift to the right; the camera pans the other way")
    pan_y: float | None = Field(None, description="the picture's drift downwards")
    zoom: float | None = Field(None, description="relative growth of the picture per second")
    roll: float | None = Field(None, description="radians per second, clockwise")
    shake: float | None = Field(None, description="RMS distance of the camera from its smooth path, diagonals")
    moving_fraction: float | None = Field(None, description="share of the time with a flow above 0.01")
    local_change: float | None = Field(
        None, description="luma change between frames of the busiest block; 90th percentile"
    )
    combing: float | None = Field(
        None, description="likeness of rows two apart over that of neighbours where it moves; upper quartile"
    )
    camera: str | None = Field(None, description="static, pan_*, tilt_*, zoom_*, roll or handheld")
    repeated_fraction: float | None = Field(None, description="share of frames that repeat the last amid motion")
    frozen_fraction: float | None = Field(None, description="share of frames without any change")
    frozen_s: float | None = Field(None, description="longest stretch without any change, seconds")


def clip_scores(
    timeline: Timeline,
    start_s: float,
    end_s: float,
    *,
    camera: CameraThresholds = CameraThresholds(),  # noqa: B008 (frozen)
) -> VisualScores:
    """Scores of the clip [start_s, end_s) of a source. Raises ValueError where the clip holds no frame."""
    span = timeline.frames.between(start_s, end_s)
    frames = timeline.frames
    if span.stop <= span.start:
        raise ValueError(f"the clip {start_s:.3f}-{end_s:.3f} s holds no frame of a {timeline.duration_s:.3f} s video")
    looks = timeline.looks.between(start_s, end_s)
    # The first entry measures movement since before the clip.
    flow = timeline.flow.between(start_s, end_s)
    movement = summarise(timeline.flow, slice(flow.start + 1, flow.stop))
    still = repeats(frames.time_s[span], frames.block_change[span])
    box = clip_crop(timeline, start_s, end_s)
    lumas = [read_luma(sample) for sample in timeline.samples_between(start_s, end_s)]
    text = sort_text(lumas)
    return VisualScores(
        luma_mean=float(frames.luma_mean[span].mean()),
        contrast=float(frames.luma_std[span].mean()),
        dark_fraction=float(frames.dark_fraction[span].mean()),
        bright_fraction=float(frames.bright_fraction[span].mean()),
        blown_fraction=float(frames.blown_fraction[span].mean()),
        luma_flicker=float(frames.luma_mean[span].std()),
        sharpness=_median(timeline.looks.sharpness[looks]),
        sharpness_peak=_median(timeline.looks.sharpness_peak[looks]),
        border_fraction=1.0 - box.width * box.height / (timeline.width * timeline.height),
        text_area=_mean_area(text.laid_over),
        scene_text_area=_mean_area(text.in_scene),
        subtitle_fraction=float(np.mean([any(map(_is_subtitle, some)) for some in text.laid_over])) if lumas else None,
        watermark_area=_watermark_area(timeline, lumas, box, slice(flow.start + 1, flow.stop)),
        motion=movement and movement.motion,
        object_motion=movement and movement.object_motion,
        pan_x=movement and movement.pan_x,
        pan_y=movement and movement.pan_y,
        zoom=movement and movement.zoom,
        roll=movement and movement.roll,
        shake=movement and movement.shake,
        moving_fraction=movement and movement.moving_fraction,
        local_change=_local_change(frames.block_change[span]),
        combing=_combing(timeline.combs.combing[timeline.combs.between(start_s, end_s)]),
        camera=movement and camera_label(movement, camera),
        repeated_fraction=still.repeated_fraction,
        frozen_fraction=still.frozen_fraction,
        frozen_s=still.frozen_s,
    )


class ImageMeasures(NamedTuple):
    """All that is measured on a still image: scores, the picture without bars, its perceptual hash."""

    scores: VisualScores
    crop: CropBox
    hash: int


def measure_image(rgb: NDArray[np.uint8]) -> ImageMeasures:
    """Of a still image, (H, W, 3) RGB; its luma is made once."""
    luma = video_luma(rgb)
    light = exposure(halve_to(luma, SMALL_SIDE))
    sharp = sharpness(luma)
    rows, columns = lit_profiles(luma)
    box = crop_box(rows[None], columns[None], rgb.shape[1], rgb.shape[0])
    scores = VisualScores(
        luma_mean=light.mean,
        contrast=light.std,
        dark_fraction=light.dark,
        bright_fraction=light.bright,
        blown_fraction=blown_fraction_rgb(rgb),
        sharpness=_median(np.array([sharp.overall])),
        sharpness_peak=_median(np.array([sharp.peak])),
        border_fraction=1.0 - box.width * box.height / luma.size,
        text_area=_area(text_lines(luma)),
    )
    return ImageMeasures(scores, box, perceptual_hash(luma))


def clip_crop(timeline: Timeline, start_s: float, end_s: float) -> CropBox:
    """The clip's picture without black bars, in pixels of the upright source."""
    looks = timeline.looks.between(start_s, end_s)
    rows, columns = timeline.looks.lit_rows[looks], timeline.looks.lit_columns[looks]
    return crop_box(rows, columns, timeline.width, timeline.height)


def clip_hashes(timeline: Timeline, start_s: float, end_s: float) -> tuple[list[int], list[float]]:
    """Perceptual hashes of a clip and their times from its start, seconds."""
    looks = timeline.looks.between(start_s, end_s)
    return timeline.looks.hashes[looks].tolist(), (timeline.looks.time_s[looks] - start_s).tolist()


def video_luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) BT.601 luma in video range (16-235), which all measurements expect."""
    return cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=219 / 255, beta=16)


def _local_change(block_change: NDArray[np.float32]) -> float | None:
    """A still picture has its noise everywhere; whatever lives moves some block, were it a mouth. From frame 2 on."""
    return float(np.percentile(block_change[1:], 90)) if len(block_change) > 1 else None


def _combing(values: NDArray[np.float32]) -> float | None:
    """The upper quartile: of a film that was pulled down to a television's rate two pictures in five are combed."""
    known = values[~np.isnan(values)]
    return float(np.percentile(known, 75)) if len(known) else None


def _median(values: NDArray[np.float32]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def _mean_area(samples: list[list[TextLine]]) -> float:
    return float(np.mean([_area(some) for some in samples])) if samples else 0.0


def _area(lines: list[TextLine]) -> float:
    return float(sum(line.width * line.height for line in lines))


def _is_subtitle(line: TextLine) -> bool:
    return line.y + line.height / 2 > 2 / 3 and abs(line.x + line.width / 2 - 0.5) < 0.2


def _watermark_area(timeline: Timeline, clip: list[Gray], box: CropBox, flow: slice) -> float | None:
    """From the clip itself if its camera moves, else from all shots of the source; of one still view, nothing."""
    moved = travel(timeline.flow, flow, timeline.width / timeline.height)
    if moved.max() >= _SCENE_MOVES:
        lumas = clip
    elif timeline.cuts or timeline.transitions:
        step = max(1, len(timeline.samples) // _SOURCE_SAMPLES)
        lumas = [read_luma(sample) for sample in timeline.samples[::step]]
    else:
        return None
    where = _inside(_spread(moved, clip[0]) >= _SCENE_MOVES, box, timeline) if lumas is clip and clip else None
    marks = fixed_marks([_inside(luma, box, timeline) for luma in lumas], where)
    return marks.area if marks is not None and marks.sure else None


def _spread(grid: NDArray[np.float32], luma: Gray) -> NDArray[np.float32]:
    return cv2.resize(grid, luma.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _inside(luma: NDArray[_Pixel], box: CropBox, timeline: Timeline) -> NDArray[_Pixel]:
    """A sampled frame without its bars and the rim beside them, where scaling leaves edges that never move."""
    y_scale, x_scale = luma.shape[0] / timeline.height, luma.shape[1] / timeline.width
    top, left = int(box.y * y_scale) + _RIM, int(box.x * x_scale) + _RIM
    bottom, right = int((box.y + box.height) * y_scale) - _RIM, int((box.x + box.width) * x_scale) - _RIM
    return luma[top:bottom, left:right]
