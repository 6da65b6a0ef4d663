"""Media that a request gives as URLs, fetched as a stranger's word is followed: with every way in shut.

The operator says what URLs may begin with. A name is resolved once, by what connects: all its addresses must be public,
and the one that was looked at is the one that is called. A redirect is a URL like the first.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx

from skyreels.serving.errors import invalid
from skyreels.serving.intake.addresses import Address, Network, is_allowed, may_be_reached
from skyreels.serving.intake.media_check import UploadLimits
from skyreels.serving.intake.uploads import Body, url_of
from skyreels.serving.request import media_places, spelled

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 3
# Nothing is unpacked: a packed body is not the file that its sniffing would tell of.
_HEADERS: Mapping[bytes | str, bytes | str] = {
    "Accept": "image/*, video/*, audio/*",
    "Accept-Encoding": "identity",
    "User-Agent": "skyreels",
}
_INSTEAD = "send the file as a part of a form, or as a data: URL"


Resolve = Callable[[str, int], Sequence[Address]]


def resolved(host: str, port: int) -> Sequence[Address]:
    """Every address of a host; numbers in any form that the system's resolver reads are such. None where none is."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in found))


@dataclass(frozen=True)
class Fetcher:
    """Fetches what begins with one of `prefixes`, from public addresses and from `networks`. Safe from any thread."""

    prefixes: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    limits: UploadLimits = field(default_factory=UploadLimits)
    trusted: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)
    """Who may vouch for a server: those that certifi lists, or that SSL_CERT_FILE holds."""
    resolve: Resolve = resolved

    def fetch(self, body: Body, folder: Path) -> Body:
        """The body, with a part for each URL that stands where media may. Raises ServingError naming the field.

        All of them together have `limits.fetch_s` seconds and `limits.body_bytes`.
        """
        urls = urls_in(body)
        for url, where in urls.items():
            self._check(where, url)
        if len(urls) > self.limits.files:
            raise invalid(None, f"at most {self.limits.files} files are taken with a request")
        parts = dict(body.parts)
        left, backend = self.limits.body_bytes, self._guarded()
        with httpcore.ConnectionPool(self.trusted, max_connections=1, network_backend=backend) as pool:
            for number, (url, where) in enumerate(urls.items()):
                path = folder / f"fetched_{number}"
                with _told(where):
                    left -= self._save(pool, where, url, path, min(left, self.limits.media.max_file_bytes))
                parts[url] = path
        return Body(body.values, parts)

    def _guarded(self) -> "_Guarded":
        return _Guarded(self.networks, self.resolve, time.monotonic() + self.limits.fetch_s)

    def _check(self, where: str, url: str) -> None:
        if not self.prefixes:
            raise invalid(where, f"URLs are not fetched here: {_INSTEAD}", "url_refused")
        if not is_allowed(url, self.prefixes):
            message = f"the service fetches no such URL: {_INSTEAD}, or ask its operator to allow it"
            raise invalid(where, message, "url_refused")

    def _save(self, pool: httpcore.ConnectionPool, where: str, url: str, path: Path, most: int) -> int:
        """Write what the URL answers with; how many bytes it is."""
        for _ in range(_MOST_REDIRECTS + 1):
            self._check(where, url)
            with pool.stream("GET", url, headers=_HEADERS) as answer:
                if answer.status not in _REDIRECTS:
                    return _saved(answer, where, path, most)
                url = urljoin(url, _header(answer, b"location"))
        raise invalid(where, f"the URL leads on more than {_MOST_REDIRECTS} times: give the last one", "fetch_failed")


def urls_in(body: Body) -> dict[str, str]:
    """By URL, the field where it stands; `data:` URLs and names of parts are none."""
    found: dict[str, str] = {}
    for where, holder, key in media_places(spelled(body.values)):
        value = holder[key]
        url = url_of(value) if isinstance(value, Mapping) else value
        if isinstance(url, str) and "://" in url[:16] and not url.startswith("data:") and url not in body.parts:
            found.setdefault(url, where)
    return found


def _saved(answer: httpcore.Response, where: str, path: Path, most: int) -> int:
    if answer.status != 200:
        raise invalid(where, f"the URL was answered with {answer.status}: {_INSTEAD}", "fetch_failed")
    if _header(answer, b"content-encoding") not in ("", "identity"):
        raise invalid(where, "the URL was answered with a packed body, which was not asked for", "fetch_failed")
    too_large = invalid(where, f"the URL holds more than the {most} bytes that are taken", "file_too_large")
    length = _header(answer, b"content-length")
    if length.isdecimal() and int(length) > most:
        raise too_large
    size = 0
    with path.open("wb") as sink:
        for chunk in answer.iter_stream():
            if (size := size + len(chunk)) > most:
                raise too_large
            sink.write(chunk)
    return size


def _header(answer: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1").strip() for key, value in answer.headers if key.lower() == name), "")


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Failures of the network as the caller is told: no more than that the URL could not be read."""
    try:
        yield
    except httpcore.TimeoutException:
        raise invalid(where, f"the URL did not answer in time: {_INSTEAD}", "fetch_failed") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        why = "its certificate is not valid" if "CERTIFICATE" in str(error).upper() else "the connection failed"
        raise invalid(where, f"the URL cannot be read, {why}: {_INSTEAD}", "fetch_failed") from error
    except _Unreachable:
        message = f"the URL's host has no address that may be called: {_INSTEAD}"
        raise invalid(where, message, "url_refused") from None


class _Unreachable(Exception):
    """The host has no address, or one that must not be called."""


@dataclass(frozen=True)
class _Guarded(httpcore.NetworkBackend):
    """Connects to addresses that were looked at, and does nothing after `deadline`, by `time.monotonic`."""

    networks: tuple[Network, ...]
    resolve: Resolve
    deadline: float

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        addresses = self.resolve(host, port)
        if not addresses or not all(may_be_reached(address, self.networks) for address in addresses):
            raise _Unreachable
        for number, address in enumerate(addresses, 1):
            try:
                stream = httpcore.SyncBackend().connect_tcp(str(address), port, _left(self.deadline))
                return _Timed(stream, self.deadline)
            except httpcore.ConnectError:
                if number == len(addresses):
                    raise
        raise AssertionError

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise _Unreachable


@dataclass(frozen=True)
class _Timed(httpcore.NetworkStream):
    """A stream whose waits end at `deadline`, however often a byte drips in."""

    stream: httpcore.NetworkStream
    deadline: float

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, _left(self.deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, _left(self.deadline))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self.stream.start_tls(ssl_context, server_hostname, _left(self.deadline))
        return _Timed(stream, self.deadline)

    def close(self) -> None:
        self.stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Seconds till then. Raises httpcore.ReadTimeout where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left
