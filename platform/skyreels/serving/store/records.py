"""A job and what belongs to it, as plain values; the states it can be in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """QUEUED -> RUNNING -> QUEUED for the next stage -> ... -> COMPLETED -> EXPIRED; FAILED or CANCELLED from the
    first two.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_over(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


OPEN = (State.QUEUED, State.RUNNING)
PREVIEW = "preview"
"""What stands for a stage in the files of a job, of pictures that show how it stands."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a job: `stage` made it ("" is the request), `place` is its name in the artifact store."""

    stage: str
    name: str
    place: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class NewJob:
    """What is accepted. `request` is echoed and may be asked again, `facts` are told of the job, none of it secret."""

    id: str
    owner: str
    request: Mapping[str, Any]
    facts: Mapping[str, Any]
    stages: tuple[str, ...]
    files: tuple[StoredFile, ...] = ()
    idempotency_key: str | None = None
    fingerprint: str = ""
    work: Mapping[str, float] = field(default_factory=dict)
    """How much each stage is to do, in the servable's unit."""
    together: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By stage, what jobs have in common that may be worked on together, and how many at once."""
    seconds: float = 0.0
    """Length of the clip."""


@dataclass(frozen=True)
class Job:
    """A row of `schema.jobs`. Times are Unix seconds; `progress` 0 to 100 never falls, and is 100 once committed."""

    id: str
    owner: str
    state: State
    hidden: bool
    request: Mapping[str, Any]
    facts: Mapping[str, Any]
    stages: tuple[str, ...]
    stage: str
    progress: int
    created_at: float
    completed_at: float | None
    expires_at: float | None
    error_code: str | None
    error_message: str | None
    timings: Mapping[str, float]
    holder: str | None
    fence: int
    lease_until: float
    attempts: int
    stage_attempts: int
    cancel_asked: bool
    last_event: int


@dataclass(frozen=True)
class Event:
    """The `number`-th thing that happened to a job, from 1."""

    number: int
    at: float
    state: State
    stage: str
    progress: int


@dataclass(frozen=True)
class Load:
    """By stage: jobs that wait, jobs at work, and the median seconds of the newest that were measured."""

    waiting: Mapping[str, int]
    working: Mapping[str, int]
    pace: Mapping[str, float]
    oldest_s: float


@dataclass(frozen=True)
class Standing:
    """A job as it stands: its files, how many open jobs were accepted before it, and seconds till it is done.

    None where it is over, or the time is not known.
    """

    job: Job
    files: Sequence[StoredFile]
    ahead: int | None = None
    eta: float | None = None


@dataclass(frozen=True)
class Page:
    """Some of an owner's jobs, and whether there are more."""

    jobs: list[Job] = field(default_factory=list)
    has_more: bool = False
