"""The Studio page and what it alone asks for: two clips to compare, and votes on them."""

import json
from importlib.resources import files
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from pydantic import Field, ValidationError

from skyreels.config import Config
from skyreels.serving import studio
from skyreels.serving.errors import invalid, not_found
from skyreels.serving.http.service import Service
from skyreels.serving.intake.fields import read_json
from skyreels.serving.store.votes import Votes

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PAGE = {
    path.name: path.read_bytes()
    for path in files(studio).iterdir()
    if path.is_file() and path.name.rpartition(".")[2] in _KINDS
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_MOST_BYTES = 10_000


class Vote(Config):
    """`verdict`: what was shown first beside what was shown second."""

    first: str = Field(max_length=64)
    second: str = Field(max_length=64)
    dimension: str = Field("overall", max_length=128)
    verdict: Literal["good", "same", "bad"]


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": Vote.model_json_schema()}}}}


def studio_routes(service: Service) -> APIRouter:
    """The page needs no key: it holds nothing, and asks for the key itself."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _file("index.html")

    @router.get("/studio")
    async def old_name() -> Response:
        return RedirectResponse("/")

    @router.get("/studio/{name}")
    async def part(name: str) -> Response:
        if name not in _PAGE or name == "index.html":
            raise not_found(f"page {name[:64]!r}")
        return _file(name)

    return router


def arena_routes(service: Service) -> APIRouter:
    """Blind comparisons: models are not told before the vote, and raters see a pair both ways round in turn."""
    router = APIRouter(tags=["arena"])
    votes = Votes(service.store)

    @router.get("/v1/arena/pair")
    async def pair(request: Request) -> dict[str, Any]:
        """Two of the caller's clips of one prompt; null where there are none."""
        caller = await service.caller(request, "read")
        found = await run_in_threadpool(votes.next_pair, caller.owner)
        if found is None:
            return {"pair": None}
        told = {"item": found.item, "first": found.first, "second": found.second}
        return {"pair": {**told, "dimensions": list(service.rubric)}}

    @router.post("/v1/arena/votes", openapi_extra=_BODY)
    async def vote(request: Request) -> dict[str, Any]:
        """Say which of two clips is better; the record tells which models they were of."""
        caller = await service.caller(request, "write")
        said = _vote(await request.body())
        if said.dimension not in service.rubric:
            raise invalid("dimension", f"{said.dimension!r} is not judged here: {', '.join(service.rubric)}")
        first = await run_in_threadpool(service.store.job, caller.owner, said.first)
        second = await run_in_threadpool(service.store.job, caller.owner, said.second)
        try:
            return await run_in_threadpool(votes.cast, caller.owner, first, second, said.dimension, said.verdict)
        except ValueError as error:
            raise invalid("second", str(error)) from error

    @router.get("/v1/arena/votes")
    async def records(request: Request) -> Response:
        """Every vote, one JSON object a line, as the evaluation reads them. Needs the scope `metrics`."""
        await service.caller(request, "metrics")
        found = await run_in_threadpool(votes.records)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found)
        return Response(lines, media_type="application/x-ndjson")

    return router


def _vote(body: bytes) -> Vote:
    if len(body) > _MOST_BYTES:
        raise invalid(None, "the vote is too long", "invalid_body")
    try:
        return Vote.model_validate(read_json(body))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise invalid(where[:100] or None, f"{where[:100]}: {fault['msg']}") from None
    except ValueError as error:
        raise invalid(None, f"the body cannot be read: {error}", "invalid_body") from error


def _file(name: str) -> Response:
    return Response(_PAGE[name], media_type=_KINDS[name.rpartition(".")[2]], headers=_HEADERS)
