"""An OpenAI-compatible server (vLLM, SGLang, a hosted API) that writes over HTTP."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from pipelines.writing.failures import WriterFailed

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_REPLY_BYTES = 4 << 20

Message = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """Where to ask and how patiently. `url` ends before `/chat/completions`.

    The key is read from the environment variable `api_key_env`, if that is set, and never shown. `timeout_s` bounds
    one try from the first byte sent to the last received, `tries` the tries per request (busy or broken server).
    `settings` is what errors call these fields: of a recipe, `captions`.
    """

    url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 4
    timeout_s: float = 120.0
    tries: int = 4
    backoff_s: float = 1.0
    max_backoff_s: float = 30.0
    max_tokens: int = 2048
    guided: bool = True  # send the JSON schema as response_format
    language: str = "en"
    settings: str = "captions"


class Answer(NamedTuple):
    """What was written, and in how many tokens."""

    text: str
    tokens: int


class _Again(Exception):
    """This try failed in a way that another may not."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


@dataclass
class ChatServer:
    """A server with its open connections."""

    server: Server
    _client: httpx.Client = field(init=False, repr=False)
    _headers: dict[str, str] = field(init=False, repr=False)
    _secret: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.server.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.server.settings}.url is {self.server.url!r}: give http(s)://host[:port]/v1")
        self._secret = os.environ.get(self.server.api_key_env, "")
        self._headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        self._client = httpx.Client(timeout=self.server.timeout_s, follow_redirects=False)

    def close(self) -> None:
        self._client.close()

    def ask(self, messages: Sequence[Message], name: str, schema: Mapping[str, Any]) -> Answer:
        """One answer, JSON of a schema, after at most `tries` tries with doubling pauses. Raises WriterFailed."""
        for attempt in range(1, self.server.tries + 1):
            try:
                return self._try(messages, name, schema)
            except _Again as again:
                if attempt == self.server.tries:
                    raise WriterFailed(
                        f"{self.place} gave no answer in {attempt} tries, at last: {again}",
                        "see that the server is up and not overloaded, then run again",
                    ) from None
                pause = again.after_s if again.after_s is not None else self.server.backoff_s * 2 ** (attempt - 1)
                time.sleep(min(pause, self.server.max_backoff_s))
        raise AssertionError("unreachable: tries is at least 1")

    def _try(self, messages: Sequence[Message], name: str, schema: Mapping[str, Any]) -> Answer:
        body = {
            "model": self.server.model,
            "messages": messages,
            "temperature": 0.0,
            "max_tokens": self.server.max_tokens,
        }
        if self.server.guided:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        deadline = time.monotonic() + self.server.timeout_s
        try:
            with self._client.stream("POST", self._address(), json=body, headers=self._headers) as response:
                content = self._read(response, deadline)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Again(f"{type(error).__name__}: {self._clean(str(error))}") from None
        if response.status_code in _RETRIED:
            raise _Again(f"status {response.status_code}", _retry_after(response.headers))
        if response.status_code != 200:
            shown = self._clean(content[:300].decode(errors="replace"))
            raise WriterFailed(
                f"{self.place} answered {response.status_code}: {shown}",
                _remedy(response.status_code, self.server.settings),
            )
        return self._parsed(content)

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        """The body; a server that drips or floods is cut off."""
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if time.monotonic() > deadline:
                raise _Again(f"the answer took longer than {self.server.timeout_s:g} s")
            if len(content) > _MAX_REPLY_BYTES:
                raise WriterFailed(
                    f"{self.place} sent more than {_MAX_REPLY_BYTES} bytes", f"check {self.server.settings}.url"
                )
        return bytes(content)

    def _parsed(self, content: bytes) -> Answer:
        try:
            body = json.loads(content)
            text = body["choices"][0]["message"]["content"]
            tokens = int((body.get("usage") or {}).get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            text, tokens = None, 0
        if not isinstance(text, str):
            raise WriterFailed(f"{self.place} sent no chat completion", f"check {self.server.settings}.url and model")
        return Answer(text, tokens)

    def _address(self) -> str:
        return f"{self.server.url.rstrip('/')}/chat/completions"

    @property
    def place(self) -> str:
        """Host and path, without user, password or query."""
        parts = urlsplit(self._address())
        return f"{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def _clean(self, text: str) -> str:
        """Servers like to quote the key they refuse."""
        return text.replace(self._secret, "[key]") if self._secret else text


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value: Any = headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _remedy(status: int, settings: str) -> str:
    if status in (401, 403):
        return f"check the key in the environment variable that {settings}.api_key_env names"
    if status == 404:
        return f"check {settings}.url and {settings}.model"
    if status == 413:
        return f"send fewer or smaller frames: {settings}.frames, {settings}.short_side"
    return f"read the server's message; {settings}.guided=false helps servers without response_format"
