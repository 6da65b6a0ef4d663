"""What keeps others from a service that has no keys: peers of other machines, and web pages.

The browser on this machine reaches loopback too.
"""

import ipaddress
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
    """Refuses peers elsewhere, requests to another host name (DNS rebinding), and pages of another origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            peer = scope.get("client")
            if peer is None or not _is_this_machine(peer[0]) or not is_loopback(_name(f"//{host}")):
                await _refuse("without keys this service answers to localhost alone", scope, receive, send)
                return
            if origin is not None and urlsplit(origin).netloc != host:
                await _refuse("pages of another origin may not use this service", scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_this_machine(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # no address, such as a socket's path
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return found.is_loopback or (mapped is not None and mapped.is_loopback)


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse(error_body(403, "wrong_origin", why), 403)(scope, receive, send)
