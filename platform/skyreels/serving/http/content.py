"""Stored files over HTTP: one range, entity tags, and headers under which a browser guesses nothing."""

import re

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from skyreels.serving.http.video import media_type
from skyreels.serving.store.artifacts import Artifacts
from skyreels.serving.store.records import StoredFile


def file_response(request: Request, artifacts: Artifacts, file: StoredFile) -> Response:
    """The file, the part of it that `Range` asks for, or that it has not changed (RFC 9110, sections 13 and 14)."""
    tag = f'"{file.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'inline; filename="{file.place.partition("/")[0]}-{file.name}"',
    }
    if _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    start, length, status = 0, file.bytes, 200
    asked = request.headers.get("range")
    if asked is not None and request.headers.get("if-range", tag) == tag:
        part = _range(asked, file.bytes)
        if part is not None and not part:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{file.bytes}"})
        if part is not None:
            start, length, status = part.start, len(part), 206
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{file.bytes}"
    headers["Content-Length"] = str(length)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type(file.name))
    body = artifacts.read(file, start, length)
    return StreamingResponse(body, status, headers, media_type(file.name))


def _range(asked: str, size: int) -> range | None:
    """The bytes that are asked for, none where they lie outside; None where the header is to be ignored."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", asked.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return range(size - min(int(found[2]), size), size)
    first, last = int(found[1]), int(found[2] or size)
    if last < first and found[2]:
        return None
    return range(min(first, size), min(last + 1, size))


def _matches(header: str | None, tag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in header.split(","))
