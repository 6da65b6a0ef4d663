"""What the sandboxed child does with the clips of a measured source: cut, normalise, score the exact samples.

Files are left in the scratch folder: `<key>.mp4` and `<key>.flac`, `<key>.flac`, or `<key>.jpg`.
"""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.curation.audio.scores import audio_scores
from pipelines.curation.pool.measure import Request, SourceTask, task_of
from pipelines.curation.recipe import CutConfig
from pipelines.curation.records import Clip, Kind, Rejection
from skyreels.media.cut import cut_audio, cut_clip
from skyreels.media.errors import MediaError
from skyreels.media.facts import SoundReport
from skyreels.media.image import read_image, write_image

_OVER_CAP = 1.01  # a rate this near to the cap was measured, not meant
_UNDER_NOMINAL = 0.9


def cut_clips(request: Request, scratch: Path) -> dict[str, Any]:
    """Cut every clip that the gate let through; one that cannot be cut is rejected and leaves the others alone."""
    task = task_of(request, scratch)
    clips = [Clip.model_validate(clip) for clip in request["clips"]]
    by_kind = {Kind.VIDEO: _cut_video, Kind.IMAGE: _cut_image, Kind.AUDIO: _cut_sound}
    for clip in clips:
        if clip.rejection is not None:
            continue
        try:
            by_kind[clip.kind](task, clip)
        except MediaError as error:
            for path in scratch.glob(f"{clip.key}.*"):
                path.unlink()
            clip.rejection = Rejection(stage="cut", reason=error.reason, remedy=error.remedy, detail=error.detail)
    return {"clips": [clip.model_dump(mode="json") for clip in clips], "timings": task.timings}


def _cut_video(task: SourceTask, clip: Clip) -> None:
    config = task.extract.cut
    assert task.probe.video is not None
    rate = clip_rate(task.probe.video.steady_rate, config)
    fps = float(rate)
    frames = max(1, int((clip.end_s - clip.start_s) * fps + 1e-6))
    clip.end_s = clip.start_s + frames / fps  # sound and picture end together, on a whole frame
    flac = task.scratch / f"{clip.key}.flac"
    with task.timed("cut"):
        report = cut_clip(
            task.path, task.probe, start_s=clip.start_s, end_s=clip.end_s, fps=rate, crop=clip.crop,
            size=clip_size(clip, config), video_path=task.scratch / f"{clip.key}.mp4",
            audio_path=flac if clip.has_audio else None, sample_rate=config.sample_rate, crf=config.crf,
            preset=config.preset, limits=task.limits,
        )  # fmt: skip
    clip.width, clip.height, clip.frames, clip.fps = report.width, report.height, report.frames, fps
    clip.scores["decode.repeated_frames"] = float(report.repeated_frames)
    if clip.has_audio:
        _score_sound(task, clip, flac, report.sound)


def clip_rate(source: Fraction, config: CutConfig) -> Fraction:
    """Pictures per second of the clips: the source's rate, or an even part of it, so that motion stays even.

    It is at most `max_fps`, and with `fps` the part nearest to it that does not lie a tenth below.
    """
    parts = math.ceil(source / Fraction(config.max_fps * _OVER_CAP))
    if config.fps is not None:
        parts = max(parts, math.floor(source / Fraction(config.fps * _UNDER_NOMINAL)))
    return (source / max(1, parts)).limit_denominator(1001)


def _cut_sound(task: SourceTask, clip: Clip) -> None:
    flac = task.scratch / f"{clip.key}.flac"
    with task.timed("cut"):
        report = cut_audio(
            task.path, task.probe, start_s=clip.start_s, end_s=clip.end_s, audio_path=flac,
            sample_rate=task.extract.cut.sample_rate, limits=task.limits,
        )  # fmt: skip
    _score_sound(task, clip, flac, report)


def _cut_image(task: SourceTask, clip: Clip) -> None:
    with task.timed("cut"):
        cut_picture(task, clip, read_image(task.path, task.limits))


def cut_picture(task: SourceTask, clip: Clip, picture: NDArray[np.uint8]) -> None:
    """Write a still picture, (H, W, 3) RGB, without its bars, at the size of a clip."""
    config = task.extract.cut
    if clip.crop is not None:
        x, y, width, height = clip.crop
        picture = picture[y : y + height, x : x + width]
    size = clip_size(clip, config)
    if size != (picture.shape[1], picture.shape[0]):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    write_image(task.scratch / f"{clip.key}.jpg", picture, quality=config.image_quality)
    clip.width, clip.height = size


def clip_size(clip: Clip, config: CutConfig) -> tuple[int, int]:
    """Width and height of the normalised clip: cropped, no short side above the cap, never enlarged, even."""
    return fitted(*(clip.crop[2:] if clip.crop else (clip.width, clip.height)), config)


def fitted(width: int, height: int, config: CutConfig) -> tuple[int, int]:
    """That size with no short side above the cap, never enlarged, even."""
    scale = min(1.0, config.max_short_side / min(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    """The encoder's 4:2:0 planes need even sides."""
    return max(2, int(side) // 2 * 2)


def _score_sound(task: SourceTask, clip: Clip, flac: Path, report: SoundReport | None) -> None:
    """Scores of the very samples that go into the shard, and by how much they were turned down to fit."""
    if report is not None and report.gain < 1:
        clip.scores["audio.turned_down_db"] = -20 * math.log10(report.gain)
    with task.timed("audio"):
        samples, rate = soundfile.read(flac, dtype="float32", always_2d=True)
        scores = audio_scores(samples.T, rate)
        clip.scores |= {f"audio.{name}": value for name, value in scores.flat().items()}
        clip.speech = scores.speech
