"""The Studio page and what it asks for: a prompt as the model reads it, two clips to compare, votes and points."""

import json
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from pydantic import Field, ValidationError

from skyreels.config import Config
from skyreels.serving import studio
from skyreels.serving.errors import invalid, not_found
from skyreels.serving.http.service import Service
from skyreels.serving.intake.fields import read_json
from skyreels.serving.servable import RequestRefused
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
_MOST_PROMPT_BYTES = 200_000  # of 32,000 characters, escaped
_Said = TypeVar("_Said", bound=Config)


class Words(Config):
    prompt: str = Field(min_length=1, max_length=32_000)


class Vote(Config):
    """`verdict`: what was shown first beside what was shown second."""

    first: str = Field(max_length=64)
    second: str = Field(max_length=64)
    dimension: str = Field("overall", max_length=128)
    verdict: Literal["good", "same", "bad"]


class Points(Config):
    """For one clip, 5 is the best."""

    clip: str = Field(max_length=64)
    dimension: str = Field("overall", max_length=128)
    points: Annotated[int, Field(ge=1, le=5)]


def _body(model: type[Config]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


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


def prompt_routes(service: Service) -> APIRouter:
    """What a prompt becomes, to be changed before it is sent with `enhance_prompt=false`."""
    router = APIRouter(tags=["prompts"])

    @router.post("/v1/prompts", openapi_extra=_body(Words))
    async def asked(request: Request) -> dict[str, Any]:
        """What the model is asked for these words."""
        await service.caller(request, "write")
        said = _read(Words, await request.body(), _MOST_PROMPT_BYTES)
        try:
            return {"prompt": said.prompt, "asked": await service.read(service.servable.asked, said.prompt)}
        except RequestRefused as error:
            raise invalid(error.field, str(error)) from error

    return router


def arena_routes(service: Service) -> APIRouter:
    """Blind comparisons: models are not told before the vote, and raters see a pair both ways round in turn."""
    router = APIRouter(tags=["arena"])
    votes = Votes(service.store)

    def check_dimension(name: str) -> None:
        if name not in service.rubric:
            raise invalid("dimension", f"{name!r} is not judged here: {', '.join(service.rubric)}")

    @router.get("/v1/arena/pair")
    async def pair(request: Request) -> dict[str, Any]:
        """Two of the caller's clips of one prompt; null where there are none."""
        caller = await service.caller(request, "read")
        found = await run_in_threadpool(votes.next_pair, caller.owner)
        if found is None:
            return {"pair": None}
        told = {"item": found.item, "first": found.first, "second": found.second}
        return {"pair": {**told, "dimensions": list(service.rubric)}}

    @router.post("/v1/arena/votes", openapi_extra=_body(Vote))
    async def vote(request: Request) -> dict[str, Any]:
        """Say which of two clips is better; the record tells which models they were of."""
        caller = await service.caller(request, "write")
        said = _read(Vote, await request.body())
        check_dimension(said.dimension)
        first = await run_in_threadpool(service.store.job, caller.owner, said.first)
        second = await run_in_threadpool(service.store.job, caller.owner, said.second)
        try:
            return await run_in_threadpool(votes.cast, caller.owner, first, second, said.dimension, said.verdict)
        except ValueError as error:
            raise invalid("second", str(error)) from error

    @router.post("/v1/arena/ratings", openapi_extra=_body(Points))
    async def rate(request: Request) -> dict[str, Any]:
        """Give one clip points; the record tells which model it was of."""
        caller = await service.caller(request, "write")
        said = _read(Points, await request.body())
        check_dimension(said.dimension)
        clip = await run_in_threadpool(service.store.job, caller.owner, said.clip)
        try:
            return await run_in_threadpool(votes.rate, caller.owner, clip, said.dimension, said.points)
        except ValueError as error:
            raise invalid("clip", str(error)) from error

    @router.get("/v1/arena/votes")
    async def records(request: Request) -> Response:
        """Votes and points, one JSON object a line, as the evaluation reads them. Needs the scope `metrics`."""
        await service.caller(request, "metrics")
        found = await run_in_threadpool(votes.records)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found)
        return Response(lines, media_type="application/x-ndjson")

    return router


def _read(model: type[_Said], body: bytes, most: int = _MOST_BYTES) -> _Said:
    if len(body) > most:
        raise invalid(None, f"the body is longer than {most} bytes", "invalid_body")
    try:
        return model.model_validate(read_json(body))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise invalid(where[:100] or None, f"{where[:100]}: {fault['msg']}") from None
    except ValueError as error:
        raise invalid(None, f"the body cannot be read: {error}", "invalid_body") from error


def _file(name: str) -> Response:
    return Response(_PAGE[name], media_type=_KINDS[name.rpartition(".")[2]], headers=_HEADERS)
