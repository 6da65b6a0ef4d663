"""References for in-context conditioning: a subject seen at another time, a speaker heard saying something else."""

from dataclasses import dataclass, replace

import numpy as np

from pipelines.synthesis.annotations import box_of
from pipelines.synthesis.film import Line
from pipelines.synthesis.render import frame_at
from pipelines.synthesis.sentences import SENTENCES
from pipelines.synthesis.studio import Rendered
from pipelines.synthesis.voice import Spoken, speak


@dataclass(frozen=True)
class SubjectReference:
    """A crop (h, w, 3) uint8 of one subject, its mask (h, w) bool, and the frame it was taken from."""

    subject: str
    image: np.ndarray
    mask: np.ndarray
    frame: int


def reference_crop(rendered: Rendered, subject: str, *, avoid: range, pad: int = 4) -> SubjectReference:
    """The fullest view of a subject in a frame outside `avoid`, the frames that the model is to make.

    `subject` is a name of the annotation ("shot0/red-ball"). ValueError if it shows in no other frame.
    """
    seen = [index for index in range(rendered.set.film.frames) if index not in avoid]
    areas = {index: int(mask.sum()) for index in seen if (mask := rendered.masks(index).get(subject)) is not None}
    if not areas:
        raise ValueError(f"{subject!r} shows in no frame outside {avoid.start}..{avoid.stop}")
    frame = max(areas, key=lambda index: (areas[index], index))
    mask = rendered.masks(frame)[subject]
    box = box_of(mask)
    assert box is not None  # its area is positive
    height, width = mask.shape
    rows, columns = (
        slice(max(0, box[1] - pad), min(height, box[3] + pad)),
        slice(max(0, box[0] - pad), min(width, box[2] + pad)),
    )
    return SubjectReference(subject, frame_at(rendered.set, frame)[rows, columns], mask[rows, columns], frame)


def voice_reference(line: Line, sample_rate: int, seed: int = 0) -> tuple[Line, Spoken]:
    """The speaker of `line` saying another sentence of the same language, and what was said."""
    others = [pair for pair in SENTENCES[line.language] if pair[0] != line.text]
    text, phonetic = others[int(np.random.default_rng((seed, 0x5E)).integers(len(others)))]
    other = replace(line, text=text, phonetic=phonetic, start=0.0, notes=())
    return other, speak(other, sample_rate)
