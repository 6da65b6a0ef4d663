"""What a prompt says and in which order: the picture, tagged text and sound, one paragraph per shot."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

TAGS = ("text", "sfx", "dialogue", "singing", "bgm")
"""Tags of the structured form in their fixed order (paper, section on captions)."""


@dataclass(frozen=True)
class StructuredPrompt:
    """The form that the last training stages see: what is seen, then what is written and heard, in order of time."""

    picture: str
    text: tuple[str, ...] = ()
    sfx: tuple[str, ...] = ()
    dialogue: tuple[str, ...] = ()
    singing: tuple[str, ...] = ()
    bgm: tuple[str, ...] = ()

    def render(self) -> str:
        """The picture's lines, then one tagged line per entry."""
        lines = [f"<{tag}>{entry}</{tag}>" for tag in TAGS for entry in getattr(self, tag)]
        return "\n".join([self.picture, *lines])


@dataclass(frozen=True)
class Shot:
    """One shot of a multi-shot clip."""

    prompt: str | StructuredPrompt
    seconds: float


Prompt = str | StructuredPrompt | Sequence[Shot]


def render_prompt(prompt: Prompt) -> str:
    """One text for the encoder. Shots are numbered and timed, for one clip holds them all.

    Subjects stay the same from shot to shot through the references that the shots name by tag.
    """
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, StructuredPrompt):
        return prompt.render()
    if not prompt:
        raise ValueError("a multi-shot prompt needs at least one shot")
    lines, start = [], 0.0
    for number, shot in enumerate(prompt, 1):
        if not (isfinite(shot.seconds) and shot.seconds > 0):
            raise ValueError(f"shot {number} lasts {shot.seconds} s: give it a length above 0")
        end = start + shot.seconds
        lines.append(f"Shot {number} ({start:.2f}-{end:.2f} s): {render_prompt(shot.prompt)}")
        start = end
    return "\n".join(lines)


def prompt_between(text: str, start_s: float, end_s: float) -> str:
    """A rendered prompt as it holds for a part of the clip: of several shots those that the part shows, timed from its
    start, and of a single one its words alone; the last goes on for as long as the clip. Any other text as it is."""
    heads = list(_SHOT.finditer(text))
    if not heads or heads[0].start():
        return text
    shots = []
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        words = text[head.end() : following.start() - 1 if following else None]
        since, until = max(start_s, float(head[1])), min(end_s, float(head[2]) if following else inf)
        if until - since >= _LEAST_S:
            shots.append(Shot(words, until - since))
    if not shots:  # somebody's own words that look like shots, whose times say nothing
        return text
    return render_prompt(shots) if len(shots) > 1 else str(shots[0].prompt)


_SHOT = re.compile(r"(?m)^Shot \d+ \((\d+\.\d\d)-(\d+\.\d\d) s\): ")
_LEAST_S = 0.005  # half of what times tell


def prompt_seconds(prompt: Prompt) -> float | None:
    """How long the shots of a multi-shot prompt last together; None for a prompt without times."""
    if isinstance(prompt, str | StructuredPrompt):
        return None
    return sum(shot.seconds for shot in prompt)
