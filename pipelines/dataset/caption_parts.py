"""A caption in parts that can be cut: what holds throughout each shot, and what is read or heard from when to when.

`between` leaves what is true of a span, with times from its start; `forms` says it in the forms that training reads.
Sources are annotated so, clips carry their part of it, and so can windows of clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipelines.dataset.captions import TAGS, Part, StructuredCaption, escape, one_line

FORMS = ("short", "long", "structured")
MOST_CHARACTERS = 20_000  # of one text: a page or ten; more than that is no caption
_LEAST_S = 0.1  # of a shot, text or music in a span: what shows for less is not told
_MOST_TIMES = 8  # of one sound; more of them are counted

Tag = Literal["text", "sfx", "dialogue", "singing", "bgm"]
Prose = Annotated[str, Field(max_length=MOST_CHARACTERS), BeforeValidator(one_line)]


class _Span(Part):
    start_s: float = Field(0.0, ge=0)
    end_s: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end_s is not None and self.end_s < self.start_s:
            raise ValueError(f"ends at {self.end_s:g} s, before it starts at {self.start_s:g} s")
        return self


class TimedLine(_Span):
    """Something read or heard in [start_s, end_s). `text` goes under the tag of the structured form, if it has one;
    `sentence` into the long form, `brief` to the end of the short one. A line without length happens at `start_s`."""

    end_s: float = Field(ge=0)
    tag: Tag | None = None
    text: Prose
    sentence: Prose | None = None
    brief: Prose | None = None

    def shown_in(self, start_s: float, end_s: float) -> bool:
        """Whether a span tells it: a sound that starts there, words of which most are there, all else that is seen.

        In a picture, a span without length, text can be read and nothing is heard.
        """
        if start_s == end_s:
            at_all = self.tag in ("text", None) and self.start_s == self.end_s == start_s
            return at_all or (self.tag == "text" and self.start_s <= start_s < self.end_s)
        lasts = self.end_s - self.start_s
        if self.tag == "sfx" or not lasts:
            return start_s <= self.start_s < end_s
        overlap = min(self.end_s, end_s) - max(self.start_s, start_s)
        if self.tag in ("dialogue", "singing"):
            return overlap > lasts / 2
        return overlap >= min(_LEAST_S, lasts)


class ShotCaption(_Span):
    """What holds throughout a shot, in the forms that are known; `end_s` None: to the end of the source."""

    short: Prose | None = None
    long: Prose | None = None
    structured: Annotated[str, Field(max_length=MOST_CHARACTERS)] | None = None

    def overlap(self, start_s: float, end_s: float) -> float:
        return min(end_s, end_s if self.end_s is None else self.end_s) - max(start_s, self.start_s)


class CaptionParts(Part):
    """The shots of a source or clip in order of time, and the timed lines. `origin` says who wrote it down where."""

    shots: list[ShotCaption] = []
    timed: list[TimedLine] = []
    origin: str = ""
    language: str = "und"  # ISO 639; und: not said

    def between(self, start_s: float, end_s: float) -> "CaptionParts":
        """What is true of [start_s, end_s), times counted from `start_s`. A picture is a span without length."""
        seconds = end_s - start_s
        least = min(_LEAST_S, seconds)
        shots = [
            shot.model_copy(
                update={
                    "start_s": _at(max(shot.start_s, start_s) - start_s),
                    "end_s": None if shot.end_s is None else _at(min(shot.end_s, end_s) - start_s),
                }
            )
            for shot in self.shots
            if shot.overlap(start_s, end_s) >= least
        ]
        timed = [line.model_copy(update=_within(line, start_s, seconds)) for line in self.timed
                 if line.shown_in(start_s, end_s)]  # fmt: skip
        return self.model_copy(update={"shots": shots, "timed": timed})

    def after(self, seconds: float) -> "CaptionParts":
        """The same, that much later."""
        shots = [
            shot.model_copy(
                update={
                    "start_s": _at(shot.start_s + seconds),
                    "end_s": None if shot.end_s is None else _at(shot.end_s + seconds),
                }
            )
            for shot in self.shots
        ]
        timed = [
            line.model_copy(update={"start_s": _at(line.start_s + seconds), "end_s": _at(line.end_s + seconds)})
            for line in self.timed
        ]
        return self.model_copy(update={"shots": shots, "timed": timed})

    def forms(self) -> dict[str, str]:
        """The forms that every shot has, as text; a caption of no shot has none."""
        told: dict[str, str] = {}
        for form, say in (("short", self._short), ("long", self._long), ("structured", self._structured)):
            texts = [text for shot in self.shots if (text := getattr(shot, form)) is not None]
            if texts and len(texts) == len(self.shots):
                told[form] = say(texts)
        return {form: text for form, text in told.items() if text}

    def _short(self, texts: Sequence[str]) -> str:
        told = [text for text, _ in groupby(texts)]
        whole = told[0] if len(told) == 1 else "; then ".join(text.rstrip(".") for text in told) + "."
        heard = list(dict.fromkeys(line.brief for line in self.timed if line.brief))
        return ", ".join([whole.rstrip("."), *heard]) + "." if heard else whole

    def _long(self, texts: Sequence[str]) -> str:
        shots = texts if len(texts) == 1 else [f"Shot {number}: {text}" for number, text in enumerate(texts, 1)]
        in_order = sorted(self.timed, key=lambda line: line.start_s)
        sentences = dict.fromkeys(line.sentence for line in in_order if line.sentence)
        return " ".join([*shots, *sentences])

    def _structured(self, texts: Sequence[str]) -> str:
        lines = tagged_lines(self.timed)
        try:
            merged = _merged([StructuredCaption.parse(text) for text in texts])
        except ValueError:  # somebody's own form: told as it stands
            tags = [f"<{tag}>{escape(text)}</{tag}>" for tag in TAGS for text in lines[tag]]
            return "\n".join([*texts, *tags])
        more = {tag: [*getattr(merged, tag), *found] for tag, found in lines.items()}
        return merged.model_copy(update=more).render()


def forms_of(told: Iterable[CaptionParts]) -> dict[str, str]:
    """The forms of several captions of the same thing: of each form, the first that there is."""
    found: dict[str, str] = {}
    for parts in told:
        found = parts.forms() | found
    return {form: found[form] for form in FORMS if form in found}


def filled(forms: Mapping[str, str]) -> dict[str, str]:
    """All three forms: prose stands for prose before tagged text does, and the fuller prose for tagged text."""
    order = {"short": FORMS, "long": ("long", "short", "structured"), "structured": ("structured", "long", "short")}
    return {form: next(forms[name] for name in names if name in forms) for form, names in order.items() if forms}


def window(captions: Mapping[str, str], told: Sequence[CaptionParts], start_s: float, end_s: float) -> dict[str, str]:
    """A clip's captions as they are true of a window of it: those that are made of its parts, made of the window's."""
    whole = filled(forms_of(told))
    inside = filled(forms_of(parts.between(start_s, end_s) for parts in told))
    return {form: inside.get(form, text) if text == whole.get(form) else text for form, text in captions.items()}


def joined(pieces: Sequence[tuple[CaptionParts, float]]) -> CaptionParts:
    """One caption of pieces that come one after another, each with its length in seconds."""
    shots: list[ShotCaption] = []
    timed: list[TimedLine] = []
    start = 0.0
    for parts, seconds in pieces:
        later = parts.after(start)
        shots += [shot if shot.end_s is not None else shot.model_copy(update={"end_s": _at(start + seconds)})
                  for shot in later.shots]  # fmt: skip
        timed += later.timed
        start += seconds
    return pieces[0][0].model_copy(update={"shots": shots, "timed": timed})


def tagged_lines(timed: Iterable[TimedLine]) -> dict[str, list[str]]:
    """The lines under each tag, in order of time; a sound that is heard again is one line with its times."""
    ordered = sorted(timed, key=lambda line: line.start_s)
    found = {tag: [line.text for line in ordered if line.tag == tag] for tag in TAGS}
    times: dict[str, list[float]] = {}
    for line in ordered:
        if line.tag == "sfx":
            times.setdefault(line.text, []).append(line.start_s)
    return found | {"sfx": [f"{text} {_when(at)}" for text, at in times.items()]}


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _when(times: Sequence[float]) -> str:
    if len(times) > _MOST_TIMES:
        return f"{len(times)} times from {times[0]:.2f} to {times[-1]:.2f} s"
    return f"at {listed([f'{time:.2f}' for time in times])} s"


def _merged(shots: Sequence[StructuredCaption]) -> StructuredCaption:
    """One caption of several shots: what differs is told in order of time."""
    if len(shots) == 1:
        return shots[0]
    subjects: dict[str, list[Any]] = {}
    for shot in shots:
        for subject in shot.subjects:
            subjects.setdefault(subject.appearance, []).append(subject)
    cast = [
        {**same[0].model_dump(), "action": _then(s.action for s in same), "is_main": number == 0}
        for number, same in enumerate(subjects.values())
    ]
    alike = {
        name: getattr(shots[0], name)
        for name in ("shot_type", "shot_angle", "shot_position")
        if len({getattr(shot, name) for shot in shots}) == 1
    }
    prose = {
        name: _then(getattr(shot, name) for shot in shots) for name in ("camera_motion", "environment", "lighting")
    }
    tags = {tag: [line for shot in shots for line in getattr(shot, tag)] for tag in TAGS}
    return StructuredCaption.model_validate({"subjects": cast[:12], **alike, **prose, **tags})


def _then(words: Iterable[str | None]) -> str | None:
    told = [text for text, _ in groupby(word for word in words if word)]
    return "; then ".join(told)[:600] or None


def _within(line: TimedLine, start_s: float, seconds: float) -> Mapping[str, float]:
    """The line's times from the start of a span that ends after `seconds`."""
    return {
        "start_s": _at(max(0.0, line.start_s - start_s)),
        "end_s": _at(min(max(0.0, line.end_s - start_s), seconds)),
    }


def _at(seconds: float) -> float:
    return round(seconds, 6)
