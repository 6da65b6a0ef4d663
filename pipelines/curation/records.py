"""What is known of a source and of a clip, as it travels from the plan to the manifest."""

import hashlib
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.dataset.manifest import Kind
from skyreels.locations import spelled

DAMAGE_REMEDY = "run `jobs/curate.py verify`: it makes anew what its sources allow"


class Status(StrEnum):
    OK = "ok"
    REJECTED = "rejected"  # understood, and not wanted
    FAILED = "failed"  # could not be understood; a replay may help


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(Record):
    """One input: a file, or a member of a tar."""

    source_id: str
    uri: str  # its location; of a member `shard.tar#member.mp4`, to be read by people: file names may hold `#` too
    kind: Kind
    size: int  # bytes
    name: str = ""  # its location relative to the input that it was found in, the same on every machine
    container: str = ""  # the location of the tar that it is a member of
    modified_ns: int = 0  # when the file, or the tar that it is in, was last written to; 0: not known
    manifest: str = ""  # the manifest whose row describes it
    meta: dict[str, Any] = {}  # what the input manifest or the tar said of it: licence, caption, url, …

    @classmethod
    def at(cls, uri: str, kind: Kind, size: int, meta: dict[str, Any] | None = None, *, member: str = "") -> "Source":
        """The file at `uri`, or the `member` of the tar there."""
        if not member:
            return cls(source_id=source_id(uri), uri=uri, kind=kind, size=size, meta=meta or {})
        member = spelled(member)
        return cls(
            source_id=source_id(uri, member), uri=f"{uri}#{member}", kind=kind, size=size, container=uri,
            meta=meta or {},
        )  # fmt: skip


class Rejection(Record):
    """Why something did not get in: the stage that said so, a short reason, and what to do about it."""

    stage: str
    reason: str
    remedy: str
    detail: str = ""


class TakenDown(Record):
    """Sources that were taken down. `sha256` are of their bytes, so that no other name lets them in again."""

    model_config = ConfigDict(frozen=True)

    source_ids: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()

    def rejection(self, source_id: str, sha256: str = "") -> Rejection | None:
        """Why a source must stay out, or None."""
        if source_id in self.source_ids:
            return Rejection(stage="takedown", reason="taken_down", remedy="none: it was taken down")
        if sha256 in self.sha256:
            return Rejection(stage="takedown", reason="taken_down", remedy="none: its bytes are those of a source "
                             "that was taken down")  # fmt: skip
        return None


class Clip(Record):
    """A span of a source (or a whole image) and everything measured on it.

    `scores` is flat, `group.name` -> number, text or None (`visual.sharpness`, `audio.snr_db`); filters name
    these keys. `sizes` and `crop` are in pixels of the upright source picture.
    """

    key: str
    source_id: str
    kind: Kind
    start_s: float = 0.0
    end_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    frames: int = 0
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height
    has_audio: bool = False
    scores: dict[str, float | int | str | bool | None] = {}
    hashes: list[int] = []  # 64-bit perceptual hashes, one per sampled frame
    hash_times: list[float] = []  # their times from the start of the clip, seconds
    speech: list[tuple[float, float]] = []  # speech intervals from the start of the clip, seconds
    transcript: str | None = None
    parts: list[tuple[str, float, float]] = []  # joined audio: source_id, start_s, end_s of each piece
    rejection: Rejection | None = None  # set when the clip was not cut

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


class SourceReport(Record):
    """The outcome of one source: its status, what the probe saw, its clips, and the rejection if there is one."""

    source: Source
    status: Status
    attempts: int = 1
    sha256: str = ""
    seconds: float = 0.0
    probe: dict[str, Any] = {}
    clips: list[Clip] = []
    rejection: Rejection | None = None
    uncovered: list[tuple[float, float, str]] = []  # spans in no clip: start_s, end_s, why
    cuts_s: list[float] = []  # hard cuts
    transitions: list[tuple[float, float, str]] = []  # fades and dissolves: start_s, end_s, kind
    timings: dict[str, float] = {}  # CPU seconds per stage


def source_id(uri: str, member: str = "") -> str:
    """16 hex digits from the whole location: equal names in different folders stay apart, odd ones are safe.

    The first `#` of what is hashed is the one before a tar's member: those of paths become NUL, which no path holds.
    """
    place = uri.replace("#", "\0") + (f"#{member}" if member else "")
    return hashlib.blake2b(place.encode(), digest_size=8).hexdigest()


def clip_key(source: str, index: int) -> str:
    """The WebDataset key of a source's index-th clip."""
    return f"{source}_{index:05d}"
