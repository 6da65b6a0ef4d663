"""A clip longer than a model makes at once: windows, each of which goes on from the end of the one before.

A window is a call of the generator. The first is the request's own; a later one extends the last frames that were made,
which it keeps, and its sound is blended into that of the one before while these are shown. Of a video that is given to
go on with, each window keeps what it shows of it; one that shows nothing else only gets sound. Windows are refined in
their order as well: what one keeps of the one before is what was refined there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.conditioning import mentioned
from model.generation.prepared import MAX_PIXELS, Media, Prepared, fitted_sound
from model.generation.prompts import prompt_between
from model.generation.steps import BaseLatents, Generated, OnStep, Progress
from model.generator import Generator
from model.media import cover, frames_and_size, output_frames, packed, resample_frames, unpacked
from model.shapes import ClipShape
from pipelines.generation.request import GenerationRequest, RequestError

_SEEDS_APART = 2**32  # of windows: clips of one request take the seeds in between


@dataclass(frozen=True)
class Windows:
    """The whole clip has `frames` of the base, and neighbours share `overlap` of them.

    `first` is the call of the first window, but that its prompt tells all shots, and its `media.video`, if any, is all
    of the video that the clip begins with.
    """

    first: Prepared
    frames: int
    overlap: int

    @property
    def clip(self) -> ClipShape:
        """The whole, as the base makes it."""
        return replace(self.first.clip, frames=self.frames)

    @property
    def shown(self) -> ClipShape:
        """The whole, as it is written."""
        refined = self.first.refined
        return self.clip if refined is None else replace(refined, frames=self.finer(self.frames))

    @property
    def spans(self) -> list[range]:
        """Frames of the whole that each window shows; every window fills whole latents."""
        spans = [range(self.first.clip.frames)]
        while spans[-1].stop < self.frames:
            start = spans[-1].stop - self.overlap
            spans.append(range(start, min(start + self.first.clip.frames, self.frames)))
        return spans

    @property
    def given(self) -> int:
        """Frames of a video that the clip begins with: its last whole latents, as every extension keeps them."""
        video = self.first.media.video
        return 0 if video is None else self.first.clip.video.whole_frames(frames_and_size(video)[0])

    @property
    def working(self) -> list[int]:
        """Numbers of the windows that make anything, from 0: sound, if no picture."""
        sounds = self.first.clip.audio is not None and self.first.media.audio is None
        return [number for number in range(len(self.spans)) if sounds or self.pictures(number)]

    def pictures(self, number: int) -> bool:
        """Whether the window shows more than the video that is given."""
        return self.spans[number].stop > self.given

    def sized(self, number: int) -> Prepared:
        """`first`, of the shape that the window has; what shows the given video alone is not refined."""
        frames, refined = len(self.spans[number]), self.first.refined
        if refined is not None:
            refined = replace(refined, frames=self.finer(frames)) if self.pictures(number) else None
        return replace(self.first, clip=replace(self.first.clip, frames=frames), refined=refined)

    def call(self, number: int, tail: np.ndarray | None) -> Prepared:
        """The window with that number; `tail` (overlap, H, W, 3) uint8 ends the one before."""
        span, media, sized = self.spans[number], self.first.media, self.sized(number)
        start = _sample(span.start, sized.clip)
        sound = None if media.audio is None else media.audio[:, start : start + sized.clip.audio_samples]
        if self.given > span.start and (number == 0 or self.given - span.start >= self.overlap):
            use = "extend" if self.pictures(number) else "add_sound"
            media = Media(video=self.of_given(span), video_use=use, audio=sound, sound=media.sound)  # type: ignore[arg-type]
        elif tail is not None:
            media = Media(video=packed(tail), video_use="extend", audio=sound, sound=media.sound)
        seed = None if self.first.seed is None else (self.first.seed + number * _SEEDS_APART) % 2**63
        return self._told(replace(sized, media=media, seed=seed), span)

    def _told(self, call: Prepared, span: range) -> Prepared:
        """With the shots that the window shows, and the references that these name."""
        prompt = prompt_between(call.prompt, span.start / call.clip.fps, span.stop / call.clip.fps)
        if prompt == call.prompt:
            return call
        named = mentioned(prompt)
        references = tuple(reference for reference in call.references if reference.tag in named)
        scale = call.settings.reference_guidance_scale
        if isinstance(scale, Mapping):
            scale = {tag: value for tag, value in scale.items() if tag in named}
        settings = replace(call.settings, reference_guidance_scale=scale)
        return replace(call, prompt=prompt, references=references, settings=settings)

    def of_given(self, span: range) -> Tensor:
        """The packed frames of the given video that a window with that span shows."""
        video = self.first.media.video
        frames = frames_and_size(video)[0]
        part = slice(frames - self.given + span.start, frames - self.given + min(span.stop, self.given))
        return video[part] if video.dtype == torch.uint8 else video[:, part]  # type: ignore[no-any-return]

    def finer(self, frames: int) -> int:
        """As many frames of the base, at the rate that is shown; the last is shown as the last."""
        return (frames - 1) * self.rate + 1

    @property
    def rate(self) -> int:
        """Frames that are shown for one of the base."""
        return 1 if self.first.refined is None else round(self.first.refined.fps / self.first.clip.fps)


def windows_of(request: GenerationRequest, first: Prepared) -> Windows | None:
    """The windows of a request whose first one was prepared; None where that is the whole. Raises RequestError."""
    if request.window is None or not request.in_windows:
        return None
    assert request.whole_seconds is not None  # or it would not be in windows
    clip = first.clip
    shared = request.window / 4 if request.overlap is None else request.overlap
    windows = Windows(
        first, clip.video.nearest_frames(request.whole_seconds * clip.fps), clip.video.nearest_frames(shared * clip.fps)
    )
    if windows.overlap >= clip.frames:
        message = f"{windows.overlap} frames of a window of {clip.frames} are kept, and nothing is left to make"
        raise RequestError("overlap", f"{message}: take a shorter overlap, or a longer window")
    if windows.given >= windows.frames:
        message = f"the video has {windows.given} frames at {clip.fps:g} fps and the whole is to have {windows.frames}"
        raise RequestError("seconds", f"{message}, so nothing is left to make: ask for more than the video lasts")
    shown = windows.shown
    if (pixels := shown.frames * shown.height * shown.width) > MAX_PIXELS:
        message = f"{shown.frames} frames of {shown.width}x{shown.height} are {pixels / 1e9:.1f} billion pixels"
        raise RequestError("seconds", f"{message}, at most {MAX_PIXELS / 1e9:.1f} are made: ask for less")
    return windows if windows.frames > clip.frames else None


def make_windows(generator: Generator, windows: Windows, on_step_end: OnStep | None = None) -> list[BaseLatents]:
    """Latents of every window that makes anything, refined where that is asked."""
    steps = windows.first.settings.steps * len(windows.working)
    finer = 0
    if windows.first.refined is not None:
        finer = generator.components.config.refiner.steps * sum(map(windows.pictures, windows.working))
    share = steps / (steps + finer)
    made = sample_windows(generator, windows, _within(on_step_end, 0.0, share))
    return made if not finer else refine_windows(generator, windows, made, _within(on_step_end, share, 1.0))


def sample_windows(generator: Generator, windows: Windows, on_step_end: OnStep | None = None) -> list[BaseLatents]:
    """The base's latents of every working window, in order; of each but the last the picture is decoded, to go on from.

    Progress runs from 0 to 1 over all of them, and so does `refine_windows`'.
    """
    made: list[BaseLatents] = []
    tail: np.ndarray | None = None
    working, last = windows.working, len(windows.spans) - 1
    for place, number in enumerate(working):
        call = windows.call(number, tail)
        watched = _placed(on_step_end, place, len(working), "window")
        made.append(generator.sample_base(call, callback_on_step_end=watched))
        if number < last and windows.pictures(number):
            tail = _decoded(generator, replace(call, refined=None), made[-1])[-windows.overlap :]
    return made


def refine_windows(
    generator: Generator, windows: Windows, latents: Sequence[BaseLatents], on_step_end: OnStep | None = None
) -> list[BaseLatents]:
    """The same with refined video; what a window keeps of the one before is shown to it as it was refined."""
    made = dict(zip(windows.working, latents, strict=True))
    finer = [number for number in made if windows.pictures(number)]
    tail: np.ndarray | None = None
    for place, number in enumerate(finer):
        call = windows.call(number, tail)
        watched = _placed(on_step_end, place, len(finer), "refined window")
        streams = generator.refine(call, made[number], callback_on_step_end=watched)
        made[number] = replace(made[number], streams=streams)
        if number != finer[-1]:
            tail = _tail(windows, _decoded(generator, call, made[number]))
    return list(made.values())


def decode_windows(generator: Generator, windows: Windows, latents: Sequence[BaseLatents]) -> Generated:
    """The whole clip; its frames are an iterator of (H, W, 3) uint8 that holds one window, once."""
    made = dict(zip(windows.working, latents, strict=True))
    return Generated(_frames(generator, windows, made), _sound(generator, windows, made), windows.shown)


def _frames(generator: Generator, windows: Windows, made: Mapping[int, BaseLatents]) -> Iterator[np.ndarray]:
    tail: np.ndarray | None = None
    for number, span in enumerate(windows.spans):
        if windows.pictures(number):
            picture = _decoded(generator, windows.call(number, tail), made[number])
        else:
            picture = _given_picture(windows, span)
        yield from picture[windows.finer(windows.overlap) if number else 0 :]
        tail = _tail(windows, picture)


def _tail(windows: Windows, picture: np.ndarray) -> np.ndarray:
    """The last frames of a window as the next is given them: as large as they are shown, at the base's rate."""
    return picture[-windows.finer(windows.overlap) :: windows.rate]


def _decoded(generator: Generator, call: Prepared, base: BaseLatents) -> np.ndarray:
    """(F, H, W, 3) uint8 of one window."""
    frames: np.ndarray = generator.decode(call, {"video": base.streams["video"]}).frames
    return frames


def _given_picture(windows: Windows, span: range) -> np.ndarray:
    """(F, H, W, 3) uint8 of a window that shows the given video alone, as large and as often as the rest is shown."""
    shown = cover(unpacked(windows.of_given(span)), windows.shown.height, windows.shown.width)
    frames: np.ndarray = output_frames(resample_frames(shown[None], windows.finer(len(span)))[0], "np")
    return frames


def _sound(generator: Generator, windows: Windows, made: Mapping[int, BaseLatents]) -> Tensor | None:
    """(channels, samples) of the whole: what was given, or that of all windows, one fading into the next."""
    first, whole = windows.first, windows.shown
    if first.media.audio is not None:
        return fitted_sound(first.media.audio, whole)[0]
    if not all("audio" in base.streams for base in made.values()):
        return None
    sound = torch.zeros(0)
    for number, base in made.items():
        call, start = replace(windows.sized(number), refined=None), windows.spans[number].start
        piece = generator.decode(call, {"audio": base.streams["audio"]}).audio
        assert piece is not None
        sound = piece if start == 0 else _blended(sound, piece, _sample(start, windows.clip))
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


def _placed(on_step_end: OnStep | None, place: int, count: int, name: str) -> OnStep | None:
    """The callback, told of one of `count` windows as the part of all that it is."""
    if on_step_end is None:
        return None

    def report(progress: Progress) -> None:
        done = (place + (progress.step.index + 1) / progress.step.count) / count
        on_step_end(replace(progress, stage=f"{name} {place + 1} of {count}", progress=done))

    return report


def _within(on_step_end: OnStep | None, start: float, stop: float) -> OnStep | None:
    """The callback, told of progress from 0 to 1 as from `start` to `stop`."""
    if on_step_end is None:
        return None

    def report(progress: Progress) -> None:
        on_step_end(replace(progress, progress=start + (stop - start) * progress.progress))

    return report
