"""Captions that came with the media: columns of a manifest, `.json` and `.txt` of a tar, NAME.json and NAME.txt beside.

What a source's captions say is kept in its meta under `_captions`, in order of precedence: manifest, JSON, text. The
JSON of a film with shots or times is cut to each of its clips.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from pipelines.curation.records import Source
from pipelines.curation.sources.folders import Folders
from pipelines.curation.sources.text_files import MAX_TEXT_BYTES, UnreadableText, decode_text, parse_json
from pipelines.dataset.caption_parts import FORMS, CaptionParts, filled, forms_of, joined
from pipelines.dataset.captions import StructuredCaption
from pipelines.dataset.tables import Row
from skyreels import storage

_LONE = ("caption", "text", "txt")  # names of a caption of no particular form
_CUT = ("captions", "caption_parts", "shots")  # a clip is told its part of them in its own captions
_BESIDE = ("json", "txt")
_READERS = 16


class BadCaption(ValueError):
    """A caption that cannot be used: where it is, why, and what to do."""


def with_user_captions(sources: Sequence[Source], folders: Folders) -> list[Source]:
    """The sources with what is written of them, in their manifests and tars and beside them.

    What cannot be used is kept as `_caption_error`: nobody knows what it would have said, so its clips are rejected.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        beside = list(readers.map(_read_beside, [_beside(source, folders) for source in sources]))
    return [
        source.model_copy(update={"meta": _captioned(source.meta | found)})
        for source, found in zip(sources, beside, strict=True)
    ]


def user_caption(clip: Row, meta_of: Mapping[str, Mapping[str, Any]], *, fill: bool) -> Row | None:
    """What users wrote of a clip, as a row of captions; None where they wrote nothing.

    `meta_of` has the meta of each source. `fill`: forms that were not written are given the words of those that were.
    Raises BadCaption.
    """
    told = _told(clip, meta_of)
    forms = forms_of(told)
    if not forms:
        return None
    said = [parts for parts in told if parts.forms()]
    row = {
        **(filled(forms) if fill else forms),
        "caption_source": "user",
        "user_forms": ",".join(forms),
        "origin": ",".join(dict.fromkeys(parts.origin for parts in said)),
        "language": said[0].language,
        "parts": json.dumps([parts.model_dump(mode="json", exclude_defaults=True) for parts in said]),
    }
    if (structured := _parsed(row.get("structured"))) is not None:
        row["structured_json"] = structured.model_dump_json(exclude_none=True)
    return {"key": clip["key"], "error": None, **row}


def _told(clip: Row, meta_of: Mapping[str, Mapping[str, Any]]) -> list[CaptionParts]:
    """The captions of a clip in order of precedence; of a joined clip one, where each of its pieces has one."""
    pieces = json.loads(clip["parts"]) or [(clip["source_id"], clip["start_s"], clip["end_s"])]
    found = []
    for source_id, start_s, end_s in pieces:
        meta = meta_of[source_id]
        if "_caption_error" in meta:
            raise BadCaption(meta["_caption_error"])
        captions = [CaptionParts.model_validate(parts) for parts in meta.get("_captions", [])]
        found.append([cut for parts in captions if (cut := parts.between(start_s, end_s)).shots])
    if len(found) == 1:
        return found[0]
    if not all(found):
        return []
    return [joined([(told[0], end - start) for told, (_, start, end) in zip(found, pieces, strict=True)])]


def _captioned(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Meta with the captions that it holds under `_captions`, and its JSON without what is nested deep."""
    kept = dict(meta)
    if isinstance(meta.get("json"), dict):
        kept["json"] = {name: item for name, item in _shallow(meta["json"]).items() if name not in _CUT}
    try:
        captions = list(_captions_in(meta))
    except BadCaption as error:
        return {**kept, "_caption_error": str(error)}
    dumped = [parts.model_dump(mode="json", exclude_defaults=True) for parts in captions]
    return {**kept, "_captions": dumped} if dumped else kept


def _captions_in(meta: Mapping[str, Any]) -> Iterator[CaptionParts]:
    if "_caption_error" in meta:
        raise BadCaption(meta["_caption_error"])
    columns = {name: value for name, value in meta.items() if name not in _BESIDE and not name.startswith("_")}
    # `txt` is a column of a manifest as well as what a text file says: either way it comes last.
    places = (("manifest", columns), ("json", meta.get("json")), ("text", {"txt": meta.get("txt")}))
    for origin, value in places:
        if isinstance(value, Mapping):
            for parts in read_caption(value, origin):
                if parts.shots:
                    yield parts


def read_caption(said: Mapping[str, Any], origin: str) -> list[CaptionParts]:
    """The captions in a JSON object or a manifest's row. Raises BadCaption naming the field.

    `caption_parts` (`dataset/caption_parts.py`) tells everything with its times and stands alone. Else `shots` with
    times and captions of their own; and forms for the whole: `caption_short`, `caption_long`, `caption_structured`, or
    `short`, `long`, `structured` in `captions`, or `caption`. What another run only measured is no user's caption.
    """
    given = {str(name).lower(): value for name, value in said.items()}
    captions = _decoded(given.get("captions"))
    within = captions if isinstance(captions, Mapping) else {}
    if "measured" in (within.get("caption_source"), given.get("caption_source"), given.get("caption_caption_source")):
        return []
    parts = _decoded(given.get("caption_parts") or within.get("parts"))
    if isinstance(parts, Mapping | list) and parts:
        return [_checked(one, origin) for one in (parts if isinstance(parts, list) else [parts])]
    shots = _told_shots(given)
    top = _forms({**_own_names(given), **within, **({} if within else {"caption": captions or given.get("caption")})})
    found: list[dict[str, Any]] = [{"shots": shots}] if shots else []
    if top and len(shots) <= 1:  # what is said of a whole film is not true of each of its shots
        found.append({"shots": [top]})
    language = str(within.get("language") or given.get("language") or "und")
    return [_checked({"language": language, **one}, origin) for one in found]


def _own_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without names that mean a caption only among captions: beside a `lat`, `long` is a place on earth."""
    return {name: value for name, value in given.items() if name not in FORMS}


def _told_shots(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shots that have captions, with their times in seconds."""
    shots = _decoded(given.get("shots"))
    if not isinstance(shots, list) or not all(isinstance(shot, Mapping) for shot in shots):
        return []
    found = []
    for shot in shots:
        captions = shot.get("captions")
        within = captions if isinstance(captions, Mapping) else {"caption": captions or shot.get("caption")}
        if forms := _forms({**shot, **within}):
            found.append({**forms, **_times(shot, given.get("fps"))})
    return found


def _times(shot: Mapping[str, Any], fps: Any) -> dict[str, Any]:
    """Start and end of a shot: given in seconds, or in frames of a film of `fps`."""
    start = shot.get("start_s", shot.get("start"))
    if start is not None:
        return {"start_s": start, "end_s": shot.get("end_s", shot.get("end"))}
    if "first_frame" not in shot or fps is None:
        raise BadCaption("a shot has a caption but no start_s: without its times nobody knows which clips it is of")
    rate = _rate(fps)
    try:
        first, end = (float(shot[name]) / rate for name in ("first_frame", "end_frame"))
    except (KeyError, TypeError, ValueError):
        raise BadCaption("a shot has no first_frame and end_frame that are numbers; or give start_s, end_s") from None
    return {"start_s": first, "end_s": end}


def _rate(fps: Any) -> float:
    over, _, under = str(fps).partition("/")
    try:
        rate = float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if rate <= 0:
        raise BadCaption(f"fps is {fps!r}: write frames per second, as 24 or 30000/1001")
    return rate


def _forms(flat: Mapping[str, Any]) -> dict[str, str]:
    """The forms that are written down; a caption of no particular form is both short and long, or structured."""
    found: dict[str, str] = {}
    for form in FORMS:
        value = next((flat[name] for name in (form, f"caption_{form}") if flat.get(name)), None)
        if value is not None:
            found[form] = _structured_text(value) if form == "structured" else _text(value, form)
    for name in _LONE:
        # `text` may as well be what is written in the picture, line by line.
        if flat.get(name) and (name == "caption" or isinstance(flat[name], str)):
            text = _text(flat[name], name)
            forms = ("structured",) if _is_structured(text) else ("short", "long")
            found = dict.fromkeys(forms, text) | found
    return found


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadCaption(f"{name} is a {type(value).__name__}: write it as one text")
    return value.strip()


def _structured_text(value: Any) -> str:
    """A structured caption given field by field, as the text that it is trained as."""
    fields = _decoded(value)
    if isinstance(fields, Mapping):
        try:
            return StructuredCaption.model_validate(fields).render()
        except ValidationError as error:
            raise BadCaption(f"structured: {_first(error)}") from None
    return _text(value, "structured")


def _is_structured(text: str) -> bool:
    """Whether a text is in the structured form; a single label is more likely prose with a colon."""
    return ("\n" in text or text.startswith("<")) and _parsed(text) is not None


def _parsed(text: str | None) -> StructuredCaption | None:
    try:
        return StructuredCaption.parse(text) if text else None
    except ValueError:
        return None


def _checked(parts: Any, origin: str) -> CaptionParts:
    try:
        read = CaptionParts.model_validate(parts)
    except ValidationError as error:
        raise BadCaption(f"caption of {origin}: {_first(error)}") from None
    if any(shot.structured is None and not (shot.short or shot.long) for shot in read.shots):
        raise BadCaption(f"caption of {origin}: a shot says nothing; give it short, long or structured")
    return read.model_copy(update={"origin": origin})


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"


def _decoded(value: Any) -> Any:
    """Columns hold nested values as JSON text; a text that is no JSON is itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _shallow(value: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values, and lists and objects of plain values: what is nested deeper describes frames, not the clip."""

    def plain(item: Any) -> bool:
        return not isinstance(item, dict | list)

    def flat(item: Any) -> bool:
        return plain(item) or all(map(plain, item.values() if isinstance(item, dict) else item))

    return {name: item for name, item in value.items() if flat(item)}


def _beside(source: Source, folders: Folders) -> dict[str, str]:
    """Locations of NAME.json and NAME.txt by extension; a member of a tar has its own."""
    if "_offset" in source.meta or "_unreadable" in source.meta:
        return {}
    folder, _, name = source.uri.rpartition("/")
    stem = name.rpartition(".")[0]
    return {
        extension.lower(): storage.join(folder, f"{stem}.{extension}")
        for extension in folders.suffixes(folder).get(stem, ())
        if extension.lower() in _BESIDE
    }


def _read_beside(files: Mapping[str, str]) -> dict[str, Any]:
    """`json` and `txt` as they are written, or `_caption_error`."""
    found: dict[str, Any] = {}
    for extension, location in files.items():
        try:
            text = decode_text(storage.read_bytes(location, most=MAX_TEXT_BYTES), location)
            said = parse_json(text) if extension == "json" else text.strip()
        except (OSError, UnreadableText) as error:
            return {"_caption_error": f"{error}; mend or remove the file, then run the same command again"}
        except ValueError as error:
            return {"_caption_error": f"{location} is not JSON: {error}; mend or remove the file, then run again"}
        if isinstance(said, dict | str):
            found[extension] = said
    return found
