"""The service from Python, with the names of the generator's call.

client = Client("http://127.0.0.1:8000")
clip = client("a red ball falls with a thud", seconds=2, seed=1)
clip.save("clip.mp4")

The same in steps: `create`, `events` or `wait`, `download`; `cancel` and `delete` end what is no longer wanted.
"""

import json
import mimetypes
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import httpx

_TRIES, _FIRST_WAIT_S, _LONGEST_WAIT_S = 6, 0.5, 30.0
_AGAIN = frozenset({429, 502, 503, 504})
_NAMES = {
    "image": "first_frame",
    "last_image": "last_frame",
    "video": "source_video",
    "video_use": "task",
    "audio": "source_audio",
    "sound": "audio",
    "window": "window_seconds",
    "overlap": "overlap_seconds",
}
"""Fields over HTTP by their names in the generator's call, where the two differ."""
_FILES = frozenset({"image", "last_image", "video", "mask", "audio"})
Variant = Literal["video", "thumbnail", "spritesheet", "record", "preview"]


class RequestFailed(Exception):
    """The service refused: HTTP `status`, its stable `code`, and the `field` that is to blame, if one is."""

    def __init__(self, status: int, code: str, field: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


class JobFailed(Exception):
    """A job that ended without a clip; `video` tells its state and its error."""

    def __init__(self, video: "Video") -> None:
        error = video.facts.get("error") or {}
        super().__init__(f"{video.id} is {video.state}: {error.get('message', 'no reason was told')}")
        self.video, self.code = video, error.get("code")


@dataclass(frozen=True)
class Upload:
    """A file of `/v1/files`, to be given wherever media are."""

    id: str


@dataclass(frozen=True)
class Video:
    """A job as it stands; `facts` is all that the service tells of it."""

    id: str
    state: str
    progress: int
    facts: Mapping[str, Any]

    @property
    def is_over(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def clips(self) -> Sequence[str]:
        """Ids of all jobs of the request, in the order of their seeds: this one's, where it was for one clip."""
        return tuple(self.facts.get("clips", [self.id]))


@dataclass(frozen=True)
class Clip:
    """A finished clip, MP4 in `data`, and the job that made it."""

    video: Video
    data: bytes

    def save(self, path: str | Path) -> Path:
        """Write the file."""
        Path(path).write_bytes(self.data)
        return Path(path)


Media = str | Path | bytes | Upload | Video
"""A path, an https:// URL that the service fetches, the bytes of a file, or what the service has already."""
Prompt = str | Sequence[Mapping[str, Any]]
"""Words, or timed shots: [{"prompt": "a door opens", "seconds": 1.5}, ...]."""
Progressed = Callable[[Mapping[str, Any]], None]


class Client:
    """One service; `key` where it asks for one. What is refused for now (429, 503) or cut off is asked again.

    A request that makes a job carries a key of its own, so that asking again makes one job.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout_s: float = 60.0) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __call__(
        self, prompt: Prompt, negative_prompt: str = "", *, on_progress: Progressed | None = None, **asked: Any
    ) -> Clip:
        """Ask for a clip, wait for it and fetch it; `asked` as `create` takes it. Raises RequestFailed, JobFailed.

        An interrupt cancels the job.
        """
        (clip,) = self.several(prompt, 1, negative_prompt, on_progress=on_progress, **asked)
        return clip

    def several(
        self, prompt: Prompt, n: int, negative_prompt: str = "", *, on_progress: Progressed | None = None, **asked: Any
    ) -> list[Clip]:
        """The same of `n` clips of one request, from `seed` and those behind it; where one fails, none are given.

        The others of a failed one are kept by the service: `JobFailed.video.clips` names them.
        """
        named = self.create(prompt, negative_prompt, n=n, **asked).clips
        try:
            videos = [self.wait(name, on_progress) for name in named]
        except KeyboardInterrupt:
            for name in named:
                self.cancel(name)
            raise
        for video in videos:
            if video.state != "completed":
                raise JobFailed(video)
        return [Clip(video, self.content(video)) for video in videos]

    def create(
        self, prompt: Prompt, negative_prompt: str = "", *, idempotency_key: str | None = None, **asked: Any
    ) -> Video:
        """Ask for a clip; returns at once. Raises RequestFailed.

        Args:
            prompt: words, or shots with their lengths.
            asked: as the generator's call: `image`, `last_image`, `keyframes` of (seconds, image), `video` with
                `video_use`, `mask` (white is made anew; also a shape, as the service documents them) or `remove`
                ("text", "logo"), `audio`, `references` by tag ({"@ball": ["front.png", "side.png"]}), `seconds`, `size`
                (height, width), `fps`, `seed`, `refine`, `sound`, `num_inference_steps`, guidance scales; and the
                service's own: `n` clips, of which the first is returned and names the others in `clips`, `lora`,
                `lora_scale`, `model`, `metadata`, `webhook_url`.
        """
        fields, files = _request(prompt, negative_prompt, asked)
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        return _video(self._ask("POST", "/v1/videos", data=fields, files=files or None, headers=headers).json())

    def video(self, video: Video | str) -> Video:
        """The job as it stands now."""
        return _video(self._ask("GET", f"/v1/videos/{_id(video)}").json())

    def videos(self, limit: int = 20) -> list[Video]:
        """The newest jobs."""
        return [_video(told) for told in self._ask("GET", "/v1/videos", params={"limit": limit}).json()["data"]]

    def events(self, video: Video | str, after: int = 0) -> Iterator[Mapping[str, Any]]:
        """What happens to the job, each once, till it is over; a stream that breaks off is taken up again."""
        tries = 0
        while True:
            try:
                for event in self._stream(_id(video), after):
                    after, tries = event["number"], 0
                    yield event
                    if event["state"] not in ("queued", "running"):
                        return
                if self.video(video).is_over:
                    return
            except (httpx.TransportError, RequestFailed) as error:
                tries += 1
                lasting = isinstance(error, RequestFailed) and error.status not in _AGAIN
                if lasting or tries >= _TRIES:
                    raise
                _pause(tries, None)

    def wait(self, video: Video | str, on_progress: Progressed | None = None) -> Video:
        """The job when it is over; every event goes to `on_progress`."""
        for event in self.events(video):
            if on_progress is not None:
                on_progress(event)
        return self.video(video)

    def content(self, video: Video | str, variant: Variant = "video") -> bytes:
        """The clip, or a picture of it. Raises RequestFailed where there is none."""
        return self._ask("GET", f"/v1/videos/{_id(video)}/content", params={"variant": variant}).content

    def download(self, video: Video | str, path: str | Path, variant: Variant = "video") -> Path:
        """The same into a file."""
        Path(path).write_bytes(self.content(video, variant))
        return Path(path)

    def cancel(self, video: Video | str) -> Video:
        """Ask for the job's end; what runs stops at its next step."""
        return _video(self._ask("POST", f"/v1/videos/{_id(video)}/cancel").json())

    def delete(self, video: Video | str) -> None:
        """End the job and remove its files."""
        self._ask("DELETE", f"/v1/videos/{_id(video)}")

    def upload(self, media: str | Path | bytes) -> Upload:
        """Send a file once, to be named in many requests."""
        return Upload(self._ask("POST", "/v1/files", files={"file": _bytes(media)}).json()["id"])

    def models(self) -> list[Mapping[str, Any]]:
        """What is served, and what it can do."""
        found: list[Mapping[str, Any]] = self._ask("GET", "/v1/models").json()["data"]
        return found

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        for tries in range(1, _TRIES + 1):
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError:
                if tries == _TRIES:
                    raise
                _pause(tries, None)
                continue
            if answer.status_code not in _AGAIN or tries == _TRIES:
                break
            _pause(tries, answer.headers.get("retry-after"))
        _check(answer)
        return answer

    def _stream(self, identifier: str, after: int) -> Iterator[Mapping[str, Any]]:
        headers = {"Last-Event-ID": str(after)}
        with self._http.stream("GET", f"/v1/videos/{identifier}/events", headers=headers) as answer:
            if answer.is_error:
                answer.read()
            _check(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))


@dataclass
class _Parts:
    """Files of a form, each under a name that a field can say."""

    files: dict[str, bytes] = field(default_factory=dict)

    def named(self, media: Media) -> Any:
        """What stands for the media in a field."""
        if isinstance(media, Upload):
            return {"file_id": media.id}
        if isinstance(media, Video):
            return {"video_id": media.id}
        if isinstance(media, str) and media.startswith("https://"):
            return media
        name = f"file_{len(self.files)}"
        self.files[name] = _bytes(media)
        return name


def _request(prompt: Prompt, negative_prompt: str, asked: dict[str, Any]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Form fields and files. Structured fields go as JSON."""
    parts = _Parts()
    words = {"prompt": prompt} if isinstance(prompt, str) else {"shots": list(prompt)}
    values: dict[str, Any] = {**words, "negative_prompt": negative_prompt}
    for name, value in asked.items():
        if value is None:
            continue
        if name in _FILES and not (name == "mask" and isinstance(value, Mapping)):
            value = parts.named(value)
        elif name == "size" and not isinstance(value, str):
            value = f"{value[1]}x{value[0]}"
        elif name == "keyframes":
            value = [{"time": seconds, "image": parts.named(image)} for seconds, image in value]
        elif name == "references":
            value = [_reference(tag, media, parts) for tag, given in value.items() for media in _several(given)]
        values[_NAMES.get(name, name)] = value
    if values.get("n") == 1:
        del values["n"]
    if "mask" in values:
        values["mask_mode"] = "edit_white"
    if "mask" in values or "remove" in values:
        values.pop("task", None)
    return {name: _text(value) for name, value in values.items() if value != ""}, parts.files


def _reference(tag: str, media: Media, parts: _Parts) -> dict[str, Any]:
    kind = "video" if isinstance(media, Video) else None
    if isinstance(media, str | Path):
        kind = (mimetypes.guess_type(str(media).partition("?")[0])[0] or "").partition("/")[0]
    if kind not in ("image", "video", "audio"):
        raise ValueError(f"{tag}: whether it is an image, a video or sound is told by a path's suffix: give a path")
    return {"type": kind, "tag": tag, "source": parts.named(media)}


def _several(given: Media | Sequence[Media]) -> Sequence[Media]:
    return given if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]


def _bytes(media: str | Path | bytes) -> bytes:
    return media if isinstance(media, bytes) else Path(media).read_bytes()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _id(video: Video | str) -> str:
    return video if isinstance(video, str) else video.id


def _video(told: Mapping[str, Any]) -> Video:
    return Video(told["id"], told["state"], told["progress"], told)


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        error = answer.json()["error"]
        message, code, blamed = error["message"], error["code"], error["param"]
    except (ValueError, KeyError, TypeError):
        message, code, blamed = f"HTTP {answer.status_code}: {answer.text[:200]}", "unknown", None
    raise RequestFailed(answer.status_code, code, blamed, message)


def _pause(tries: int, wait: str | None) -> None:
    told = float(wait) if wait is not None and wait.isdigit() else _FIRST_WAIT_S * 2 ** (tries - 1)
    time.sleep(min(_LONGEST_WAIT_S, told))
