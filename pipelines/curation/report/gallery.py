"""The clips that can be looked at: each with its preview, its facts and why it is in or not."""

from base64 import b64encode
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Kind, Rejection
from pipelines.curation.report.previews import Preview, retained_of
from pipelines.dataset.buckets import bucket_of
from pipelines.dataset.tables import Row

MAX_PREVIEW_BYTES = 2_900_000  # of all previews; base64 makes it 3.9 MB of page
KEPT = "kept"
_MOST_GROUPS = 8
_MOST_MEMBERS = 4


@dataclass(frozen=True)
class Card:
    """One clip of the gallery; `group` is `kept` or `stage:reason`, by which it is filtered."""

    key: str
    group: str
    kind: str
    bucket: str
    source: str  # where it is from, short
    span: str  # in words, of the source
    media_type: str
    media: str  # data URI
    poster: str  # data URI of a still, empty for sound
    width: int
    height: int
    peaks: tuple[float, ...]
    short: str
    long: str
    said_by: str  # what wrote the caption
    detail: str  # of the rejection
    remedy: str
    scores: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Filter:
    """A button over the gallery and how many cards it leaves."""

    group: str
    count: int


@dataclass(frozen=True)
class DuplicateGroup:
    """A retained clip and the clips that repeat it, with what was said of each; `more` beyond those listed."""

    of: str
    duplicates: tuple[tuple[str, str], ...]  # key, detail
    more: int


def cards(
    clips: pa.Table,
    sources: pa.Table,
    decisions: Mapping[str, Rejection | None],
    captions: Mapping[str, Mapping[str, Any]],
    previews: Sequence[Preview],
    recipe: Recipe,
) -> list[Card]:
    """A card per preview, kept clips first; previews that would make the page too large are left out."""
    wanted = {preview.key for preview in previews}
    mask = pa.array([key in wanted for key in clips.column("key").to_pylist()], pa.bool_())
    rows = {row["key"]: row for row in clips.filter(mask).to_pylist()}
    uris = dict(zip(sources.column("source_id").to_pylist(), sources.column("uri").to_pylist(), strict=True))
    made = [
        _card(preview, rows[preview.key], uris, decisions[preview.key], captions.get(preview.key, {}), recipe)
        for preview in _affordable(previews)
    ]
    return sorted(made, key=lambda card: (card.group != KEPT, card.group))


def filters(shown: Sequence[Card]) -> list[Filter]:
    """One button per group in the gallery, in the gallery's order."""
    return [Filter(group, count) for group, count in Counter(card.group for card in shown).items()]


def duplicate_groups(decisions: Mapping[str, Rejection | None], pictured: Container[str]) -> list[DuplicateGroup]:
    """Groups of duplicates by the clip that was retained: those in the gallery (`pictured`) first, then the largest."""
    members: dict[str, list[tuple[str, str]]] = {}
    for key, why in sorted(decisions.items(), key=lambda item: (item[0] not in pictured, item[0])):
        retained = retained_of(why)
        if why is not None and retained is not None:
            members.setdefault(retained, []).append((key, f"{why.reason}: {why.detail}"))
    ranked = sorted(members, key=lambda of: (of not in pictured, -len(members[of]), of))[:_MOST_GROUPS]
    return [
        DuplicateGroup(of, tuple(members[of][:_MOST_MEMBERS]), max(0, len(members[of]) - _MOST_MEMBERS))
        for of in ranked
    ]


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def _affordable(previews: Sequence[Preview]) -> Iterator[Preview]:
    """The first previews that fit in the page together."""
    left = MAX_PREVIEW_BYTES
    for preview in previews:
        left -= preview.size
        if left < 0:
            return
        yield preview


def _card(
    preview: Preview,
    row: Row,
    uris: Mapping[str, str],
    why: Rejection | None,
    caption: Mapping[str, Any],
    recipe: Recipe,
) -> Card:
    start, end = row["start_s"], row["end_s"]
    scores = {name: value for name, value in row.items() if "." in name and value is not None}
    return Card(
        key=preview.key,
        group=KEPT if why is None else f"{why.stage}:{why.reason}",
        kind=row["kind"],
        bucket=bucket_of(Kind(row["kind"]), row["width"], row["height"], end - start, recipe.shards),
        source=PurePosixPath(uris[row["source_id"]]).name,
        span=f"{start:.1f}–{end:.1f} s" if end > start else f"{row['width']}×{row['height']}",
        media_type=preview.media_type,
        media=data_uri(preview.media_type, preview.data),
        poster=_still(preview),
        width=preview.width,
        height=preview.height,
        peaks=preview.peaks,
        short=str(caption.get("short") or ""),
        long=str(caption.get("long") or ""),
        said_by=str(caption.get("caption_source") or ""),
        detail=why.detail if why else "",
        remedy=why.remedy if why else "",
        scores=tuple((name, _written(value)) for name, value in sorted(scores.items())),
    )


def _still(preview: Preview) -> str:
    if preview.media_type.startswith("image/"):
        return data_uri(preview.media_type, preview.data)
    return data_uri("image/jpeg", preview.poster) if preview.poster else ""


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
