"""What a captioner is asked and answers. The clip's key goes all the way and comes back, or there is no caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.dataset.captions import Caption

Samples = tuple[NDArray[np.float32], int]  # (C, N) in [-1, 1], rate in Hz


@dataclass(frozen=True)
class CaptionRequest:
    """One clip. `frames` are JPEGs in order of time; `measurements` its flat scores (`visual.camera`, `audio.class`)
    and facts (`seconds`, `width`, `height`, `fps`); `transcript` None: no speech recognition ran."""

    key: str
    frames: Sequence[bytes] = ()
    audio: Path | Samples | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)
    transcript: str | None = None


@dataclass(frozen=True)
class CaptionError:
    """Why there is no caption, and what to do about it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


@dataclass(frozen=True)
class CaptionResult:
    """Either a caption or an error. `seconds` of wall time, `tokens` written by the model (0 if none or not told).

    `issues` is what `checks.issues` found in the caption; whoever collects captions decides what is too much.
    """

    key: str
    caption: Caption | None
    error: CaptionError | None
    seconds: float = 0.0
    tokens: int = 0
    issues: tuple[str, ...] = ()


class CaptionFailed(Exception):
    """Raised within a captioner for one clip; becomes that clip's `CaptionResult.error`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.error = CaptionError(reason, remedy)


class Captioner(Protocol):
    """Answers every request, in the order of the requests. Keys within one call must differ."""

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionResult]: ...


def check_keys(requests: Sequence[CaptionRequest]) -> None:
    """Raises ValueError where two requests have one key: their answers could not be told apart."""
    keys = [request.key for request in requests]
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"asked twice in one call for clip {twice[0]}: give each clip once")
