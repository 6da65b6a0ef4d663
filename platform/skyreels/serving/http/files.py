"""`/v1/files`: media sent once and named by id, in OpenAI's shape."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from skyreels.serving.errors import invalid
from skyreels.serving.http.content import file_response
from skyreels.serving.http.service import Service
from skyreels.serving.intake.uploads import Body, read_body
from skyreels.serving.store.uploads import Upload, Uploads, new_file_id

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "description": "told back"},
                    },
                }
            }
        },
    }
}


def file_routes(service: Service) -> APIRouter:
    """Routes for files that many requests may name."""
    router = APIRouter(tags=["files"])
    uploads = Uploads(service.store)

    @router.post("/v1/files", openapi_extra=_FORM)
    async def upload(request: Request) -> dict[str, Any]:
        """Send a picture, a video or sound, to be named as {"file_id": …} afterwards."""
        caller = await service.caller(request, "write")
        await run_in_threadpool(uploads.check_room, caller.owner)
        with TemporaryDirectory(prefix="skyreels-upload-") as scratch:
            body = await read_body(request, Path(scratch), 1)
            return _told(await service.read(_kept, service, uploads, caller.owner, body))

    @router.get("/v1/files")
    async def page(request: Request) -> dict[str, Any]:
        """The caller's files, the newest first."""
        caller = await service.caller(request, "read")
        found = await run_in_threadpool(uploads.all_of, caller.owner)
        return {"object": "list", "data": [_told(file) for file in found], "has_more": False}

    @router.get("/v1/files/{file}")
    async def retrieve(request: Request, file: str) -> dict[str, Any]:
        """One file's facts."""
        caller = await service.caller(request, "read")
        return _told(await run_in_threadpool(uploads.get, caller.owner, file))

    @router.get("/v1/files/{file}/content", response_class=Response)
    async def content(request: Request, file: str) -> Response:
        """Its bytes, as they came."""
        caller = await service.caller(request, "read")
        found = await run_in_threadpool(uploads.get, caller.owner, file)
        return file_response(request, service.artifacts, found.stored)

    @router.delete("/v1/files/{file}")
    async def delete(request: Request, file: str) -> dict[str, Any]:
        """Forget a file; jobs that were made with it keep theirs."""
        caller = await service.caller(request, "write")
        found = await run_in_threadpool(uploads.delete, caller.owner, file)
        return {"id": found.id, "object": "file", "deleted": True}

    return router


def _kept(service: Service, uploads: Uploads, owner: str, body: Body) -> Upload:
    """Checked, stored, and then true."""
    if set(body.parts) != {"file"} or not set(body.values) <= {"file", "purpose"}:
        raise invalid("file", "send one file as the part `file` of a form, and nothing but its `purpose` besides")
    purpose = body.values.get("purpose", "user_data")
    if not isinstance(purpose, str) or len(purpose) > 64:
        raise invalid("purpose", "it is a word of at most 64 characters")
    path = body.parts["file"]
    kinds = service.intake.look("file", path)["kinds"]
    identifier = new_file_id()
    path = path.rename(path.with_name("upload"))
    try:
        return uploads.add(identifier, owner, purpose, kinds, service.artifacts.keep(identifier, path))
    except BaseException:
        service.artifacts.remove(identifier)
        raise


def _told(file: Upload) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": int(file.expires_at),
        "filename": file.id,
        "purpose": file.name,
        "status": "processed",
        "kinds": file.kinds,
    }
