"""What keeps a web page from using a service that has no keys: the browser on this machine reaches loopback too."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from skyreels.serving.errors import error_body

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    return host in _LOOPBACK


class LoopbackOnly:
    """Refuses requests to another host name (DNS rebinding) and those that a page of another origin makes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if not is_loopback(_name(f"//{host}")):
                await _refuse("without keys this service answers to localhost alone", scope, receive, send)
                return
            if origin is not None and urlsplit(origin).netloc != host:
                await _refuse("pages of another origin may not use this service", scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse(error_body(403, "wrong_origin", why), 403)(scope, receive, send)
