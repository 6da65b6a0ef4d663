"""The ingress: OpenAI's `/v1/videos` with what it lacks. It keeps nothing, so any number of them may run."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from skyreels.serving.errors import ServingError, error_body, invalid, not_found
from skyreels.serving.http.content import file_response
from skyreels.serving.http.files import file_routes
from skyreels.serving.http.metrics import Timed
from skyreels.serving.http.origins import LoopbackOnly
from skyreels.serving.http.service import Service
from skyreels.serving.http.studio import arena_routes, prompt_routes, studio_routes
from skyreels.serving.http.video import video_object
from skyreels.serving.intake.accept import output_of
from skyreels.serving.intake.uploads import Body, read_body
from skyreels.serving.request import VideoRequest
from skyreels.serving.store.records import Job, State

logger = logging.getLogger(__name__)

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_BUSY = {"Retry-After": "5"}
_POLL = {"openai-poll-after-ms": "1000"}


def build_app(service: Service, lifespan: Lifespan | None = None) -> FastAPI:
    """The routes over a service."""
    app = FastAPI(
        title="SkyReels platform",
        version="1",
        summary="Clips with sound from words and media",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        telemetry={"auto_configure": False},  # `tracing.start` has, for metrics go to Prometheus
        max_body_size=service.intake.limits.body_bytes,
    )
    for routes in (
        _making,
        _ending,
        _reading,
        _streaming,
        file_routes,
        prompt_routes,
        arena_routes,
        studio_routes,
        _operating,
    ):
        app.include_router(routes(service))
    app.add_middleware(Timed, metrics=service.metrics)
    if not service.keyed:
        app.add_middleware(LoopbackOnly)
    _answer_errors(app, service)
    return app


def _making(service: Service) -> APIRouter:
    """Routes that make jobs: the answer comes at once, with the job's id."""
    router = APIRouter(tags=["videos"])
    body_of = {"requestBody": _request_body(VideoRequest.model_json_schema())}
    intake = service.intake

    async def made(request: Request, call: Callable[[str, Body, Path], Job]) -> JSONResponse:
        caller = await service.caller(request, "write")
        with TemporaryDirectory(prefix="skyreels-request-") as scratch:
            body = await read_body(request, Path(scratch), intake.limits.files)
            body = await service.fetched(caller.owner, body, Path(scratch))
            job = await service.read(call, caller.owner, body, Path(scratch))
        service.accepted()
        told = await service.told(job)
        return JSONResponse(told, headers={"Location": f"/v1/videos/{job.id}", **_waiting(told)})

    @router.post("/v1/videos", openapi_extra=body_of)
    async def create(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Ask for a clip."""
        return await made(request, lambda owner, body, folder: intake.create(owner, body, folder, idempotency_key))

    @router.post("/v1/videos/edits", openapi_extra=body_of)
    async def edit(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Ask for a video to be changed as the prompt says."""
        return await made(
            request,
            lambda owner, body, folder: intake.create(owner, _on_video(body, "edit"), folder, idempotency_key),
        )

    @router.post("/v1/videos/extensions", openapi_extra=body_of)
    async def extend(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Ask for a video to go on."""
        return await made(
            request,
            lambda owner, body, folder: intake.create(owner, _on_video(body, "extend"), folder, idempotency_key),
        )

    @router.post("/v1/videos/{video}/remix")
    async def remix(request: Request, video: str, idempotency_key: IdempotencyKey = None) -> Response:
        """Ask for what an earlier job was asked, with another prompt."""

        def call(owner: str, body: Body, folder: Path) -> Job:
            if body.values.keys() != {"prompt"}:
                raise invalid("prompt", "send the new prompt, and nothing else")
            return intake.remix(owner, video, body.values["prompt"], folder, idempotency_key)

        return await made(request, call)

    return router


def _waiting(told: dict[str, Any]) -> dict[str, str]:
    """Of a job that is not over: when to ask again, its place and how long it takes, where these are known."""
    known = {"X-Queue-Position": told["queue_position"], "X-Eta-Seconds": told["eta_seconds"]}
    return {**_POLL, **{name: str(value) for name, value in known.items() if value is not None}}


def _on_video(body: Body, task: str) -> Body:
    """The request with its task; with a mask or `remove` the video is inpainted."""
    if not {"video", "source_video"} & body.values.keys():
        raise invalid("video", 'send the video as a file, or {"id": …} of an earlier job')
    inpainted = {"mask", "remove"} & body.values.keys()
    return Body({**body.values, **({} if inpainted else {"task": task})}, body.parts)


def _ending(service: Service) -> APIRouter:
    """Routes that end jobs."""
    router = APIRouter(tags=["videos"])

    @router.post("/v1/videos/{video}/cancel")
    async def cancel(request: Request, video: str) -> dict[str, Any]:
        """Ask for a job's end; what runs stops at its next step. What is over stays as it is."""
        caller = await service.caller(request, "write")
        job = await run_in_threadpool(service.store.cancel, caller.owner, video)
        return await service.told(job)

    @router.delete("/v1/videos/{video}")
    async def delete(request: Request, video: str) -> dict[str, Any]:
        """Cancel a job, and remove it with its files."""
        caller = await service.caller(request, "write")
        job = await run_in_threadpool(service.store.delete, caller.owner, video)
        return {"id": job.id, "object": "video.deleted", "deleted": True}

    return router


def _reading(service: Service) -> APIRouter:
    """Routes that tell of jobs."""
    router = APIRouter(tags=["videos"])

    @router.get("/v1/videos")
    async def page(
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """The caller's jobs by their time."""
        caller = await service.caller(request, "read")
        found = await run_in_threadpool(service.store.page, caller.owner, after, limit, order == "desc")
        told = list(map(video_object, await run_in_threadpool(service.store.standings, found.jobs)))
        ends = {"first_id": told[0]["id"] if told else None, "last_id": told[-1]["id"] if told else None}
        return {"object": "list", "data": told, "has_more": found.has_more, **ends}

    @router.get("/v1/videos/{video}")
    async def retrieve(request: Request, response: Response, video: str) -> dict[str, Any]:
        """One job as it stands; a failed one is answered with 200 too."""
        caller = await service.caller(request, "read")
        standing = await run_in_threadpool(service.store.standing, caller.owner, video)
        told = video_object(standing)
        if not standing.job.state.is_over:
            response.headers.update(_waiting(told))
        return told

    return router


def _streaming(service: Service) -> APIRouter:
    """Routes whose answers are long."""
    router = APIRouter(tags=["videos"])

    @router.head("/v1/videos/{video}/content", include_in_schema=False)
    @router.get("/v1/videos/{video}/content", response_class=StreamingResponse)
    async def content(
        request: Request,
        video: str,
        variant: Literal["video", "thumbnail", "spritesheet", "record", "preview"] = "video",
    ) -> Response:
        """The clip, or a picture of it; `Range` and `If-None-Match` are obeyed."""
        caller = await service.caller(request, "read")
        job = await run_in_threadpool(service.store.job, caller.owner, video)
        file = output_of(job, await run_in_threadpool(service.store.files, job.id), variant)
        if file is not None:
            return file_response(request, service.artifacts, file)
        if job.state is State.COMPLETED:
            raise not_found(f"{variant} of {job.id}")
        gone = job.state is State.EXPIRED
        code, message = ("expired", "it is gone") if gone else ("video_not_ready", f"it is {job.state}")
        raise ServingError(404, code, f"there is no {variant} of {job.id}: {message}")

    @router.get("/v1/videos/{video}/events", response_class=StreamingResponse)
    async def events(
        request: Request, video: str, last_event_id: Annotated[int, Header(ge=0, lt=2**31)] = 0
    ) -> Response:
        """Progress as server-sent events, from behind `Last-Event-ID`; the stream ends with the job."""
        caller = await service.caller(request, "read")
        await run_in_threadpool(service.store.job, caller.owner, video)

        async def stream() -> AsyncIterator[str]:
            async for number, told in service.events(caller, video, last_event_id):
                yield f"id: {number}\nevent: video\ndata: {json.dumps(told)}\n\n" if told else ": alive\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router


def _operating(service: Service) -> APIRouter:
    """Routes about the service itself."""
    router = APIRouter(tags=["service"])

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """What is served, and what it can do."""
        await service.caller(request, "read")
        return {"object": "list", "data": [_model(card) for card in service.servable.models]}

    @router.get("/v1/models/{model}")
    async def model(request: Request, model: str) -> dict[str, Any]:
        await service.caller(request, "read")
        for card in service.servable.models:
            if card.id == model:
                return _model(card)
        raise not_found(f"model {model[:64]!r}")

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Whether jobs can be taken: the store answers, files can be written, workers are up."""
        await run_in_threadpool(service.store.check)
        await run_in_threadpool(service.artifacts.check)
        if not service.ready():
            raise ServingError(503, "not_ready", "no worker is up", headers=_BUSY)
        return {"status": "ready"}

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        await service.caller(request, "metrics")
        return Response(await run_in_threadpool(service.metrics.text), media_type="text/plain; version=0.0.4")

    return router


def _model(card: Any) -> dict[str, Any]:
    told = {"id": card.id, "object": "model", "created": card.created, "owned_by": "operator"}
    return {**told, "capabilities": dict(card.capabilities)}


def _request_body(schema: dict[str, Any]) -> dict[str, Any]:
    """A form and JSON take the same fields."""
    return {
        "required": True,
        "content": {kind: {"schema": schema} for kind in ("application/json", "multipart/form-data")},
    }


def _answer_errors(app: FastAPI, service: Service) -> None:
    """Every error in OpenAI's form; what is unforeseen is logged and tells nothing of the inside."""

    def answer(error: ServingError) -> JSONResponse:
        service.metrics.refused.labels(error.code).inc()
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(ServingError)
    async def refused(_: Request, error: ServingError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(
            error.status_code, "invalid_body"
        )
        return JSONResponse(error_body(error.status_code, code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def parameters(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(invalid(str(first["loc"][-1]), f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(sa.exc.SQLAlchemyError)
    @app.exception_handler(OSError)
    async def away(_: Request, error: Exception) -> JSONResponse:
        logger.error("store or files do not answer: %s", error)
        message = "the service cannot reach its store or its files just now: try again"
        return answer(ServingError(503, "unavailable", message, headers=_BUSY))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return JSONResponse(error_body(500, "internal_error", "the service failed; its log says why"), 500)
