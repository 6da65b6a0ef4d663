"""One clip against what was asked for, in words: what a demo or a person's own check wants to know."""

from dataclasses import dataclass

from pipelines.evaluation.clips import Clip
from pipelines.evaluation.judge.path import follow
from pipelines.evaluation.judge.picture import look
from pipelines.evaluation.judge.sound import sound_class


@dataclass(frozen=True)
class Asked:
    """What a prompt of the plain world asks for, in the words of `films.Truth`."""

    shape: str
    colour: str
    background: str
    motion: str
    sound: str


@dataclass(frozen=True)
class Verdict:
    """`seen` is what the judge saw or heard instead of, or as, what was `asked`."""

    asked: str
    seen: str

    @property
    def right(self) -> bool:
        return self.asked == self.seen


def judged(clip: Clip, asked: Asked) -> dict[str, Verdict]:
    """Verdicts by name; sound where the clip has any, else heard as silence."""
    if clip.frames is None:
        raise ValueError("a clip without a picture shows none of what was asked for")
    picture = look(clip.frames)
    seen = {
        "shape": picture.shape,
        "colour": picture.colour,
        "background": picture.background,
        "motion": follow(picture.centres, clip.fps, clip.frames.shape[2] / clip.frames.shape[1]).kind,
        "sound": "silence" if clip.audio is None else sound_class(clip.audio, clip.sample_rate),
    }
    return {name: Verdict(getattr(asked, name), str(value)) for name, value in seen.items()}
