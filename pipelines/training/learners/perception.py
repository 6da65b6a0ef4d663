"""The tiny encoder learns to see and hear, from clips and what is told of them, before anything is cached with it.

An MLLM that comes with its weights knows more than a dataset could teach it and is left as it is.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.conditioning import AudioReference, ImageReference, Reference, VideoReference
from model.prompt_encoder.encoder import MLLMEncoder
from model.prompt_encoder.senses import learning_towers, perceive, reading_loss, word_ids, words_found
from pipelines.dataset.caption_parts import CaptionParts
from pipelines.dataset.reader import Clip
from pipelines.training.data.draws import drawn_by
from pipelines.training.data.windows import RandomWindows
from pipelines.training.latents.references import main_subject, noun_phrase, part_of
from skyreels.progress import Progress

PICTURES, CLIPS, SOUNDS = 80, 3, 4
"""Lessons of a step, which cost about as much of each kind."""
WINDOWS = 1024
"""Decoded once of pictures and of sounds: any frame of any window is a picture, in any part that is large enough."""
HELD_OUT = 16
"""One window of so many teaches nothing, and tells how much was learned."""
OTHER_COLOURS = 0.5
"""Of the pictures, the share shown in colours that nobody told of: a ring is one in any. Else a shape that comes in few
colours alone is taken for another in the rest."""
SHOWN_S = 0.5
RATE, WARM_UP = 3e-3, 100
SILENCE = "silence"
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Lesson:
    """A window, pixels (3, F, H, W) as bytes or sound (channels, samples), and the tokens that name what is in it."""

    values: Tensor
    words: Tensor


_Make = Callable[[Lesson, np.random.Generator], Reference]


@dataclass(frozen=True)
class Learned:
    """The share of words that are found in what is seen and heard of held-out windows; None: there was none."""

    seen: float | None
    heard: float | None


def teach(encoder: MLLMEncoder, windows: RandomWindows, steps: int) -> Learned:
    """Train the encoder's eyes and ears in place. Windows whose captions name nothing are left out."""
    lessons = _Lessons.of(encoder, windows, steps)
    if not lessons.pixels and not lessons.sounds:
        print("encoder   not taught: no caption names what is seen or heard")
        return Learned(None, None)
    with learning_towers(encoder) as weights, torch.enable_grad(), Progress("encoder", steps, "steps") as progress:
        optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for step in range(steps):
            references, words, of = lessons.draw(windows.seed, step)
            loss = reading_loss(encoder, perceive(encoder, references), words, of)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            progress.update(status=f"loss {loss.item():.3f}")
    learned = lessons.examined(encoder)
    shares = ("none" if share is None else f"{share:.3f}" for share in (learned.seen, learned.heard))
    print("encoder   finds, of the words for held-out windows, {} by sight and {} by ear".format(*shares))
    return learned


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * np.cos(np.pi * step / max(1, steps))) + 1e-3


@dataclass(frozen=True)
class _Lessons:
    """Windows whose words are known; those that come first are held out."""

    sample_rate: int
    pixels: list[Lesson]
    sounds: list[Lesson]

    @classmethod
    def of(cls, encoder: MLLMEncoder, windows: RandomWindows, steps: int) -> "_Lessons":
        count = min(WINDOWS, max(2 * HELD_OUT, 2 * steps))
        samples = round(SHOWN_S * windows.sample_rate)
        sees, hears = windows.has_pixels, encoder.hears and windows.has_sounds(samples)
        pixels: list[Lesson] = []
        sounds: list[Lesson] = []
        for number in range(count):
            if sees:
                seen = windows.pixels(number, 0, 1)
                words = words_seen(seen.clips[0], seen.starts_s[0], windows.frames / windows.fps)
                if words:
                    pixels.append(Lesson(_as_bytes(seen.values[0]), word_ids(encoder, words)))
            if hears:
                heard = windows.sounds(number, 0, 1, samples)
                words = words_heard(heard.clips[0], heard.starts_s[0], SHOWN_S)
                if words:
                    sounds.append(Lesson(heard.values[0], word_ids(encoder, words)))
        return cls(windows.sample_rate, pixels, sounds)

    def draw(self, seed: int, step: int) -> tuple[list[Reference], list[Tensor], list[int]]:
        """References of each kind, the words of each, and how many there are with those that nobody knows."""
        generator = drawn_by(seed, "lessons", step)
        references: list[Reference] = []
        words: list[Tensor] = []
        recoloured = round(OTHER_COLOURS * PICTURES)
        kinds: tuple[tuple[_Make, list[Lesson], int, bool], ...] = (
            (_picture, self.pixels, PICTURES - recoloured, True),
            (_recoloured, self.pixels, recoloured, False),
            (_clip, self.pixels, CLIPS, True),
            (_sound, self.sounds, SOUNDS, True),
        )
        of: list[int] = []
        for make, pool, count, whole in kinds:
            taught = pool[len(pool) // HELD_OUT :]
            for _ in range(count if taught else 0):
                lesson = taught[int(generator.integers(len(taught)))]
                references.append(make(lesson, generator))
                words.append(lesson.words if whole else lesson.words[-1:])
                of.append(len(lesson.words.unique()))
        return references, words, of

    def examined(self, encoder: MLLMEncoder) -> Learned:
        """Of pictures and sounds that were held out."""
        generator = drawn_by(0, "examination")
        shares = []
        for make, pool in ((_picture, self.pixels), (_sound, self.sounds)):
            held = pool[: len(pool) // HELD_OUT]
            found = [
                share
                for lesson in held
                for share in words_found(encoder, perceive(encoder, [make(lesson, generator)]), [lesson.words])
            ]
            shares.append(sum(found) / len(found) if found else None)
        return Learned(*shares)


def _picture(lesson: Lesson, generator: np.random.Generator) -> Reference:
    frame = lesson.values[:, int(generator.integers(lesson.values.shape[1]))]
    return ImageReference("@image_1", (part_of(_as_values(frame), generator),))


def _recoloured(lesson: Lesson, generator: np.random.Generator) -> Reference:
    """Channels in another order, some of them inverted, all of them mixed: edges stay where they are."""
    frame = _as_values(lesson.values[:, int(generator.integers(lesson.values.shape[1]))])
    mixed = np.eye(3)[generator.permutation(3)] * generator.choice((-1.0, 1.0), 3)[:, None]
    mixed += generator.normal(0, 0.25, (3, 3))
    other = torch.tensordot(torch.from_numpy(mixed).float(), frame, 1) + float(generator.uniform(-0.2, 0.2))
    return ImageReference("@image_1", (part_of(other.clamp(-1, 1), generator),))


def _clip(lesson: Lesson, generator: np.random.Generator) -> Reference:
    frames = max(1, lesson.values.shape[1] // 2)
    first = int(generator.integers(lesson.values.shape[1] - frames + 1))
    return VideoReference("@video_1", _as_values(lesson.values[:, first : first + frames]))


def _sound(lesson: Lesson, generator: np.random.Generator) -> Reference:
    return AudioReference("@audio_1", lesson.values)


def words_seen(clip: Clip, start_s: float, seconds: float) -> str:
    """What a caption says that a window shows: its subject in the words of the shortest form, else in the fullest's;
    without one, the surroundings."""
    captions = clip.captions_between(start_s, start_s + seconds)
    subject = main_subject(captions)
    if not subject:
        setting = re.search(r"(?m)^Environment: ([^\n]+)", captions.get("structured", ""))
        return _ARTICLE.sub("", setting[1]) if setting else ""
    return _ARTICLE.sub("", noun_phrase(captions.get("short", ""), subject) or subject)


def words_heard(clip: Clip, start_s: float, seconds: float) -> str:
    """The shortest words for what is heard in a window; "" where nobody wrote down what is heard when."""
    told = [CaptionParts.model_validate(parts) for parts in json.loads(clip.caption_parts)]
    if not any(parts.timed for parts in told):
        return ""
    lines = [line.brief for parts in told for line in parts.between(start_s, start_s + seconds).timed if line.brief]
    return " ".join(dict.fromkeys(lines)) or SILENCE


def _as_bytes(pixels: Tensor) -> Tensor:
    return (pixels * 127.5 + 127.5).round().to(torch.uint8)


def _as_values(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1
