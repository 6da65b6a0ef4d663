"""What the engine serves: a request is planned where it comes in, and its stages are run where there is a device.

A plan and what a stage hands on are files, so every stage may run in a process of its own, and go on after its end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from skyreels.serving.request import VideoRequest


class Cancelled(Exception):
    """Raised by `Work.step`: the job is to end, or the worker has lost it. A servable lets it pass."""


class RequestRefused(ValueError):
    """The request cannot be carried out: which field is to blame, why, and what to do."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field


class StageFailed(Exception):
    """The stage cannot be done for this request, however often it is tried. `code` is a stable word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ModelCard:
    """A model as `/v1/models` tells of it."""

    id: str
    created: int
    capabilities: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Together:
    """A stage may be run with the same one of other jobs that tell the same `key`, at most `most` of them at once."""

    key: str
    most: int


@dataclass(frozen=True)
class Plan:
    """A request that will run: `stages` in their order, `files` that every stage is given, `facts` that are told.

    `facts` that clients look for: `size` ("WxH"), `seconds`, `fps`, `seed`, `task`.
    """

    stages: tuple[str, ...]
    files: tuple[Path, ...]
    facts: Mapping[str, Any]
    work: Mapping[str, float] = field(default_factory=dict)
    """By stage, how much there is to do, in a unit of the servable's: times are learned from it."""
    together: Mapping[str, Together] = field(default_factory=dict)
    """By stage, those that gain from company."""


@dataclass(frozen=True)
class Work:
    """One stage of one job. `files` by name: the plan's and all that stages before made, later ones first.

    What is written to `folder` is kept; names are lower-case words with a suffix. The last stage leaves "video.mp4",
    and, where it can, "thumbnail.jpg" and "spritesheet.jpg".
    """

    stage: str
    files: Mapping[str, Path]
    folder: Path
    step: Callable[[float], None]
    """Called after every step with the share of the stage that is done, 0 to 1. Raises Cancelled."""
    show: Callable[[np.ndarray], None] = lambda _: None
    """May be called with a picture (H, W, 3) uint8 of how the clip stands; only the newest is shown."""


class Runner(Protocol):
    """What does stages. `run` is called by one thread at a time for each of them."""

    def run(self, work: Work) -> Mapping[str, Any]:
        """Do a stage; facts to tell of the job. Raises StageFailed, and anything else where a new attempt may help."""

    def run_together(self, works: Sequence[Work]) -> Sequence[Mapping[str, Any] | None]:
        """Do one stage of several jobs whose plans say that they go together; None for one whose `step` was Cancelled.

        Whatever it raises, each is then run alone.
        """


class Servable(Runner, Protocol):
    """Made once in every process. `plan` and `asked` are called by one thread at a time."""

    @property
    def models(self) -> Sequence[ModelCard]:
        """The first is the default."""

    @property
    def stages(self) -> Sequence[str]:
        """All that a plan may name."""

    def load(self, stages: Sequence[str]) -> None:
        """Make ready what these stages need, where they will run. Without it the first run takes longer."""

    def join(self, folder: Path, number: int, count: int) -> None:
        """Meet in an empty `folder` with others, and from then on do every stage together, each on a device of its own.

        This is `number` of `count` processes, which are all given the same work; returns when all are there. What they
        make is kept of number 0 alone, whose `step` is the one that may raise Cancelled: it then ends all of them.
        """

    def asked(self, prompt: str) -> str:
        """What the model is asked where a request has that prompt and says nothing else. Raises RequestRefused."""

    def plan(self, request: VideoRequest, files: Mapping[str, Path], folder: Path) -> Plan:
        """Check a request as a whole and read its files, which `request` names; its own go to `folder`.

        Needs no device. Raises RequestRefused.
        """

    def reseeded(self, plan: Plan, seed: int, folder: Path) -> Plan:
        """The plan of another clip of the same request, which differs by its seed; its own files go to `folder`."""


Build = Callable[[Sequence[str]], Servable]
"""Makes the servable for a process that runs these stages; none where requests are only planned."""
