"""The body of a request as plain values and files with names of ours; JSON and forms say the same."""

import base64
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from skyreels.serving.errors import ServingError, invalid
from skyreels.serving.intake.fields import nested, read_json

_TEXT_BYTES = 1 << 20
_FIELDS = 64


@dataclass(frozen=True)
class Part:
    """A file that came as a part of a form."""

    name: str


@dataclass
class Body:
    """`values` by field, `Part` where a file stands; `parts` are the files by the name of their field."""

    values: dict[str, Any]
    parts: dict[str, Path] = field(default_factory=dict)


async def read_body(request: Request, folder: Path, most_files: int) -> Body:
    """Read a form or JSON; files go to `folder`. ServingError where it is neither."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            return await _form(request, folder, most_files)
        if kind == "application/json":
            values = read_json(await request.body())
            if not isinstance(values, dict):
                raise invalid(None, "the body must be one JSON object", "invalid_json")
            return Body(values)
    except ValueError as error:
        raise invalid(None, f"the body cannot be read: {error}", "invalid_body") from error
    raise ServingError(415, "unsupported_media_type", f"{kind[:80]!r}: send multipart/form-data or application/json")


async def _form(request: Request, folder: Path, most_files: int) -> Body:
    parts: dict[str, Path] = {}
    pairs: list[tuple[str, Any]] = []
    async with request.form(max_files=most_files, max_fields=_FIELDS, max_part_size=_TEXT_BYTES) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                pairs.append((name, value))
                continue
            parts[name] = folder / f"part_{len(parts)}"  # what the sender calls the file is not looked at
            await run_in_threadpool(_save, value, parts[name])
            pairs.append((name, Part(name)))
    return Body(nested(pairs), parts)


def _save(file: UploadFile, path: Path) -> None:
    with path.open("wb") as sink:
        shutil.copyfileobj(file.file, sink, 1 << 20)


def decoded_url(where: str, url: str) -> bytes:
    """What a `data:` URL holds. ServingError for any other."""
    if not url.startswith("data:"):
        message = "no such URL is read: send the file as a part of a form, or as a data: URL"
        raise invalid(where, message, "url_refused")
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise invalid(where, "write the data: URL as data:image/png;base64,…", "invalid_url")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise invalid(where, f"the data: URL is not base64: {error}", "invalid_url") from error


def url_of(value: Mapping[str, Any]) -> str | None:
    """The URL in {"image_url": …} and its like, also as {"image_url": {"url": …}}."""
    for key in ("image_url", "video_url", "audio_url", "url"):
        if key in value and len(value) == 1:
            inner = value[key]
            url = inner.get("url") if isinstance(inner, Mapping) else inner
            return url if isinstance(url, str) else None
    return None
