"""A clip in memory, as every judge takes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_flac, write_video
from skyreels.media.errors import MediaError
from skyreels.media.probe import probe
from skyreels.media.sound import decode_audio


@dataclass(frozen=True)
class Clip:
    """`frames` (F, H, W, 3) uint8 RGB at `fps`; `audio` (C, N) float32 in [-1, 1] at `sample_rate`. None: has none.

    Of a refined clip, `unrefined` are frames that need no refiner: what it was given, enlarged and blended; and `dense`
    those that it makes with dense attention.
    """

    frames: np.ndarray | None = None
    fps: float = 16.0
    audio: np.ndarray | None = None
    sample_rate: int = 44100
    unrefined: np.ndarray | None = None
    dense: np.ndarray | None = None

    @property
    def seconds(self) -> float:
        """Of the picture, else of the sound."""
        if self.frames is not None:
            return len(self.frames) / self.fps
        return 0.0 if self.audio is None else self.audio.shape[1] / self.sample_rate

    def write(self, folder: Path, name: str) -> Path:
        """Write `name`.mp4, or `name`.flac of sound alone, for people to look at; gives its path."""
        if self.frames is None:
            assert self.audio is not None
            write_flac(path := folder / f"{name}.flac", self.audio, self.sample_rate)
            return path
        path = folder / f"{name}.mp4"
        write_video(path, self.frames, self.fps, audio=self.audio, sample_rate=self.sample_rate, crf=12)
        return path


def read_clip(path: str | Path) -> Clip:
    """A file of ours: decoded in this process, so only for files that are trusted. Raises MediaError."""
    facts = probe(path)
    frames = audio = None
    fps, rate = 16.0, 44100
    if facts.video is not None:
        frames = np.stack([frame.rgb() for frame in iter_video_frames(path, facts)])
        fps = float(facts.video.steady_rate)
    if facts.audio is not None:
        heard = decode_audio(path, facts)
        audio, rate = heard.samples, heard.sample_rate
    if frames is None and audio is None:
        raise MediaError("no_streams", "Give a file with a picture or with sound.", Path(path).name)
    return Clip(frames, fps, audio, rate)
