"""Measures of files whose truth nobody knows."""

from pathlib import Path

from pipelines.evaluation.clips import read_clip
from pipelines.evaluation.judge import measures


def measure_file(path: str | Path) -> dict[str, float | None]:
    """What can be said of any clip; None: it does not tell (under 2 s, silent, still). Raises MediaError."""
    clip = read_clip(path)
    found: dict[str, float | None] = {"seconds": clip.seconds}
    if clip.frames is not None:
        found |= {"sharpness": measures.sharpness(clip.frames), "flicker": measures.flicker(clip.frames)}
    if clip.audio is not None:
        found |= {"loudness_db": measures.loudness_db(clip.audio), "clipping": measures.clipping(clip.audio)}
    if clip.frames is not None and clip.audio is not None:
        both = clip.frames, clip.fps, clip.audio, clip.sample_rate
        found |= {"av_align": measures.av_align(*both), "sync_offset_s": measures.sync_offset(*both)}
    return found
