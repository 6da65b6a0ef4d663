"""What is wrong with a caption, in words: missing parts, lengths, tags, leaked instructions, the transcript."""

import re
import unicodedata

from pipelines.dataset.captions import TAGS, Caption

_SHORT_WORDS = (3, 60)
_LONG_WORDS = (15, 600)
_HEARD_SHARE = 0.5  # of the transcript's words that the caption must quote
_LEAKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"<\|[^|>]*\|>",  # a chat template's own tokens
        r"\{\{.*?\}\}|\{%.*?%\}",
        r"\bas an ai\b|\bi(?: am|'m) (?:unable|not able) to\b|\bi cannot (?:see|view|hear)\b",
        r"\bjson\b.*\bschema\b|\bthe (?:id|key) from the request\b",
        r"\b(?:lorem ipsum|your caption here|insert .{0,20} here)\b",
        r"^\s*(?:here is|here's|sure[,!])",
    )
)


def issues(caption: Caption, transcript: str | None = None) -> list[str]:
    """Empty for a caption without fault. `transcript` is what speech recognition heard, if it ran."""
    found = _missing(caption) + _lengths(caption) + _leaks(caption)
    return found + (_unheard(caption, transcript) if transcript else [])


def tag_issues(text: str) -> list[str]:
    """What is wrong with the tags of a structured text that something else than `render` wrote (a prompt rewriter)."""
    opened, closed = re.findall(r"<(\w+)>", text), re.findall(r"</(\w+)>", text)
    unknown = sorted({*opened, *closed} - set(TAGS))
    if unknown:
        return [f"unknown tags: {', '.join(unknown)}"]
    places = [TAGS.index(tag) for tag in opened]
    found = ["tags are out of order"] if places != sorted(places) else []
    return found + (["tags are not closed one by one"] if opened != closed else [])


def _missing(caption: Caption) -> list[str]:
    """What every model's caption must fill; one that was only measured cannot know its subjects."""
    if caption.caption_source == "measured":
        return []
    structured = caption.structured
    found = [
        f"structured.{name} is missing" for name in ("environment", "camera_motion") if not getattr(structured, name)
    ]
    if not structured.subjects:
        found.append("structured.subjects is empty")
    elif sum(subject.is_main for subject in structured.subjects) != 1:
        found.append("structured.subjects wants exactly one main subject")
    return found


def _lengths(caption: Caption) -> list[str]:
    found = []
    bounds = {"short": _SHORT_WORDS} | ({"long": _LONG_WORDS} if caption.caption_source == "model" else {})
    for name, (least, most) in bounds.items():
        count = _length(getattr(caption, name))
        if not least <= count <= most:
            found.append(f"{name} has {count} words, wanted {least} to {most}")
    if _length(caption.long) < _length(caption.short):
        found.append("long is shorter than short")
    return found


def _leaks(caption: Caption) -> list[str]:
    texts = {"short": caption.short, "long": caption.long, "structured": caption.structured.model_dump_json()}
    return [
        f"{name} holds text of the instruction or of the model: {leak.group(0)!r}"
        for name, text in texts.items()
        for pattern in _LEAKS
        if (leak := pattern.search(text))
    ]


def _unheard(caption: Caption, transcript: str) -> list[str]:
    """Whether dialogue or singing quotes what was heard."""
    heard = _words(transcript)
    if not heard:
        return []
    quoted = _words(" ".join([*caption.structured.dialogue, *caption.structured.singing]))
    if not quoted:
        return ["the transcript has words, but <dialogue> and <singing> are empty"]
    share = len(heard & quoted) / len(heard)
    return [] if share >= _HEARD_SHARE else [f"<dialogue> quotes {share:.0%} of the transcript's words"]


def _words(text: str) -> set[str]:
    """Lower-case words; each character of a script that writes no spaces counts as a word."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return set(re.findall(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+", folded))


def _length(text: str) -> int:
    """Words; of scripts without spaces, two characters are counted as one."""
    unspaced = len(re.findall(f"[{_UNSPACED}]", text))
    return len(re.findall(rf"[^\W{_UNSPACED}]+", text)) + (unspaced + 1) // 2


_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f"  # kana, Han, Thai
