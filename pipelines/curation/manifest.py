"""What a finished dataset says of itself: `manifest.parquet` (what is in) and `rejects.parquet` (what is not, why)."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.curation import tables
from pipelines.curation.packing import Pack
from pipelines.curation.records import Rejection
from pipelines.dataset.tables import Row
from skyreels.commits import Commit

_REJECT_TYPES = {
    **dict.fromkeys(("uri", "source_id", "key", "kind"), pa.string()),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "status": pa.string(),
    **dict.fromkeys(("stage", "reason", "remedy", "detail"), pa.string()),
    "attempts": pa.int32(),
}
_NO_CLIP = Rejection(
    stage="segment",
    reason="no_clip",
    remedy="nothing in it was long enough for a clip, or its sound was joined with one that was taken down",
)
_FOLDERS = re.compile(r"(^|:)(?:/|~/|\./|\.\./)(?:[^/]*/)*(?=[^/])")  # of a path, all but its last part
_INTERNAL = frozenset({"members", "embedding", "stage", "reason", "remedy", "detail", "bytes", "made_of"})


def sample_json(clip: Row, caption: Row | None, provenance: Mapping[str, Any]) -> Row:
    """The `json` of a training sample: what it is, how it sounds and looks in numbers, captions, where it is from.

    No path of this machine is in it: a source is named relative to its input, a model by the last part of its path.
    """
    scores = {name: value for name, value in clip.items() if "." in name and value is not None}
    facts = ("key", "kind", "bucket", "width", "height", "fps", "frames", "has_audio", "speech", "transcript")
    source = {name: clip[name] for name in ("source_id", "sha256", "start_s", "end_s", "crop")}
    source["uri"] = clip["name"]
    source["meta"] = {name: value for name, value in json.loads(clip["meta"]).items() if not name.startswith("_")}
    source["parts"] = json.loads(clip["parts"])
    return {
        **{name: clip[name] for name in facts},
        "seconds": round(clip["end_s"] - clip["start_s"], 6),
        "captions": _captions(caption or {}),
        "scores": scores,
        "source": source,
        "provenance": {name: _without_folders(value) for name, value in provenance.items()},
    }


def _captions(caption: Row) -> Row:
    """The forms, whose they are, and in parts with times where they came so (`pipelines/dataset/caption_parts.py`)."""
    said = {name: value for name, value in caption.items() if name not in ("key", "error")}
    return said | ({"parts": json.loads(said["parts"])} if "parts" in said else {})


def _without_folders(made_by: Any) -> Any:
    """What made a sample, with `/models/x` and `local-dir:/models/x` as `x` and `local-dir:x`."""
    if isinstance(made_by, Mapping):
        return {name: _without_folders(value) for name, value in made_by.items()}
    return _FOLDERS.sub(r"\1", made_by) if isinstance(made_by, str) else made_by


def manifest_table(
    chosen: Mapping[str, Row], captions: Mapping[str, Row], packs: Sequence[Pack], commits: Iterable[Commit]
) -> pa.Table:
    """One row per sample of the dataset, in order of key: where it lies, its bucket, its scores and captions."""
    pack_of = {key: pack.pack_id for pack in packs for key in pack.keys}
    members = {key: files for commit in commits for key, files in commit.facts["members"].items()}
    rows = []
    for key in sorted(chosen):
        row = {name: value for name, value in chosen[key].items() if name not in _INTERNAL}
        said = {f"caption_{k}": v for k, v in captions.get(key, {}).items() if isinstance(v, str) and k != "key"}
        shard = next(iter(members[key].values()))[0]
        row |= {"pack_id": pack_of[key], "shard": shard, "members": json.dumps(members[key]), **said}
        rows.append(row)
    return tables.clip_table(rows)


def rejects_table(clips: Sequence[Row], decisions: Mapping[str, Rejection | None], sources: Sequence[Row]) -> pa.Table:
    """One row per source that gave nothing, per span that became no clip, and per clip that was not chosen.

    A joined clip that was not chosen has one row per source that it was joined from.
    """
    rows = [_of_source(source) for source in sources if source["stage"] is not None]
    heard = {piece for clip in clips for piece, _, _ in _pieces(clip)}
    for source in sources:
        rows += [_of_span(source, *span) for span in json.loads(source["uncovered"])]
        if source["stage"] is None and source["uncovered"] == "[]" and source["source_id"] not in heard:
            rows.append(_of_source(source | _NO_CLIP.model_dump()))
    by_id = {source["source_id"]: source for source in sources}
    for clip in clips:
        why = decisions[clip["key"]]
        if why is not None:
            rows += [_row(by_id[piece], why, clip["key"], start, end) for piece, start, end in _pieces(clip)]
    return pa.Table.from_pylist(rows, pa.schema(_REJECT_TYPES))


def _pieces(clip: Row) -> list[tuple[str, float, float]]:
    """Source, start and end of everything in a clip: one span, unless it was joined."""
    return json.loads(clip["parts"]) or [(clip["source_id"], clip["start_s"], clip["end_s"])]


def _of_source(source: Row) -> Row:
    why = Rejection(**{name: source[name] for name in ("stage", "reason", "remedy", "detail")})
    return _row(source, why, None, 0.0, source["seconds"])


def _of_span(source: Row, start_s: float, end_s: float, reason: str) -> Row:
    remedy = _REMEDIES.get(reason, "change extract.segments in the recipe; this makes new parts")
    return _row(source, Rejection(stage="segment", reason=reason, remedy=remedy), None, start_s, end_s)


_REMEDIES = {
    "no_picture": "none is needed: there is sound here, and no picture",
    "held": "none is needed: one picture stays on screen; with a larger extract.segments.min_s clips may hold it",
    "unread": "split the file where recordings were joined to it byte by byte, and give the parts",
}


def _row(source: Row, why: Rejection, key: str | None, start_s: float, end_s: float) -> Row:
    status = source["status"] if key is None else "rejected"
    return {
        "uri": source["uri"],
        "source_id": source["source_id"],
        "key": key,
        "kind": source["kind"],
        "start_s": start_s,
        "end_s": end_s,
        "status": status,
        "attempts": source["attempts"],
        **why.model_dump(),
    }
