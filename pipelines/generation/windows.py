"""A clip longer than a model makes at once: windows, each of which goes on from the end of the one before.

A window is a call of the generator. The first is the request's own; a later one extends the last frames that were made,
which it keeps, and its sound is blended into that of the one before while these are shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.generation.prepared import MAX_PIXELS, Media, Prepared, fitted_sound
from model.generation.steps import BaseLatents, Generated, OnStep, Progress
from model.generator import Generator
from model.media import packed
from model.shapes import ClipShape
from pipelines.generation.request import GenerationRequest, RequestError

_SEEDS_APART = 2**32  # of windows: clips of one request take the seeds in between


@dataclass(frozen=True)
class Windows:
    """`first` is the call of the first window; the whole clip has `frames`, and neighbours share `overlap` of them."""

    first: Prepared
    frames: int
    overlap: int

    @property
    def clip(self) -> ClipShape:
        """The whole."""
        return replace(self.first.clip, frames=self.frames)

    @property
    def spans(self) -> list[range]:
        """Frames of the whole that each window shows; every window fills whole latents."""
        spans = [range(self.first.clip.frames)]
        while spans[-1].stop < self.frames:
            start = spans[-1].stop - self.overlap
            spans.append(range(start, min(start + self.first.clip.frames, self.frames)))
        return spans

    def call(self, number: int, tail: np.ndarray | None) -> Prepared:
        """The window with that number, from 0; `tail` (overlap, H, W, 3) uint8 ends the one before."""
        span = self.spans[number]
        clip, media = replace(self.first.clip, frames=len(span)), self.first.media
        if tail is not None:
            start = _sample(span.start, clip)
            sound = None if media.audio is None else media.audio[:, start : start + clip.audio_samples]
            media = Media(video=packed(tail), video_use="extend", audio=sound, sound=media.sound)
        seed = None if self.first.seed is None else (self.first.seed + number * _SEEDS_APART) % 2**63
        return replace(self.first, media=media, clip=clip, seed=seed)


def windows_of(request: GenerationRequest, first: Prepared) -> Windows | None:
    """The windows of a request whose first one was prepared; None where that is the whole. Raises RequestError."""
    if request.window is None or request.seconds is None or request.seconds <= request.window:
        return None
    clip = first.clip
    shared = request.window / 4 if request.overlap is None else request.overlap
    windows = Windows(
        first, clip.video.nearest_frames(request.seconds * clip.fps), clip.video.nearest_frames(shared * clip.fps)
    )
    if windows.overlap >= clip.frames:
        message = f"{windows.overlap} frames of a window of {clip.frames} are kept, and nothing is left to make"
        raise RequestError("overlap", f"{message}: take a shorter overlap, or a longer window")
    if (pixels := windows.frames * clip.height * clip.width) > MAX_PIXELS:
        message = f"{windows.frames} frames of {clip.width}x{clip.height} are {pixels / 1e9:.1f} billion pixels"
        raise RequestError("seconds", f"{message}, at most {MAX_PIXELS / 1e9:.1f} are made: ask for less")
    return windows if windows.frames > clip.frames else None


def sample_windows(generator: Generator, windows: Windows, on_step_end: OnStep | None = None) -> list[BaseLatents]:
    """The base's latents of every window, in order; of each but the last the picture is decoded, to go on from."""
    made: list[BaseLatents] = []
    tail: np.ndarray | None = None
    count = len(windows.spans)
    for number in range(count):
        call = windows.call(number, tail)
        made.append(generator.sample_base(call, callback_on_step_end=_placed(on_step_end, number, count)))
        if number + 1 < count:
            tail = _picture(generator, call, made[-1])[-windows.overlap :]
    return made


def decode_windows(generator: Generator, windows: Windows, latents: Sequence[BaseLatents]) -> Generated:
    """The whole clip; its frames are an iterator of (H, W, 3) uint8 that holds one window, once."""
    return Generated(_frames(generator, windows, latents), _sound(generator, windows, latents), windows.clip)


def _frames(generator: Generator, windows: Windows, latents: Sequence[BaseLatents]) -> Iterator[np.ndarray]:
    tail: np.ndarray | None = None
    for number, base in enumerate(latents):
        picture = _picture(generator, windows.call(number, tail), base)
        yield from picture[0 if tail is None else windows.overlap :]
        tail = picture[-windows.overlap :]


def _picture(generator: Generator, call: Prepared, base: BaseLatents) -> np.ndarray:
    """(F, H, W, 3) uint8 of one window."""
    frames: np.ndarray = generator.decode(call, {"video": base.streams["video"]}).frames
    return frames


def _sound(generator: Generator, windows: Windows, latents: Sequence[BaseLatents]) -> Tensor | None:
    """(channels, samples) of the whole: what was given, or that of all windows, one fading into the next."""
    first, whole = windows.first, windows.clip
    if first.media.audio is not None:
        return fitted_sound(first.media.audio, whole)[0]
    if "audio" not in latents[0].streams:
        return None
    sound = torch.zeros(0)
    for span, base in zip(windows.spans, latents, strict=True):
        call = replace(first, clip=replace(first.clip, frames=len(span)))
        piece = generator.decode(call, {"audio": base.streams["audio"]}).audio
        assert piece is not None
        sound = piece if span.start == 0 else _blended(sound, piece, _sample(span.start, whole))
    return sound[:, : whole.audio_samples]


def _blended(sound: Tensor, piece: Tensor, start: int) -> Tensor:
    """`sound`, and `piece` from the sample `start` on; where both are, at equal power: neither follows the other."""
    shared = sound.shape[1] - start
    angle = torch.linspace(0, torch.pi / 2, shared)
    mixed = sound[:, start:] * angle.cos() + piece[:, :shared] * angle.sin()
    return torch.cat([sound[:, :start], mixed.clamp(-1, 1), piece[:, shared:]], 1)


def _sample(frame: int, clip: ClipShape) -> int:
    """The sample that sounds when the frame begins to be shown; 0 without sound."""
    return round(frame / clip.fps * clip.audio.sample_rate) if clip.audio else 0


def _placed(on_step_end: OnStep | None, number: int, count: int) -> OnStep | None:
    """The callback, told of one window of `count` as the part of the whole that it is."""
    if on_step_end is None:
        return None

    def report(progress: Progress) -> None:
        done = (number + progress.progress) / count
        on_step_end(replace(progress, stage=f"window {number + 1} of {count}", progress=done))

    return report
