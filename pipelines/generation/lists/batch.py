"""A list of requests to a folder of clips: each line is a part, made and committed once, wherever there is a device.

A line that cannot be made is told in the folder's `failures.jsonl`, and the others go on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from model.generation.components import read_spec
from model.generation.prepared import GeneratorSpec
from model.generator import Generator
from pipelines.generation.enhance import EnhancerConfig, enhancer
from pipelines.generation.finishing import load_finish
from pipelines.generation.lists.prompt_file import read_line
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.removal import with_regions
from pipelines.generation.render import Output, OutputKind, render
from pipelines.generation.request import GenerationRequest
from pipelines.generation.windows import windows_of
from skyreels.commits import Commit, CommitLog, CommittedFile, digest
from skyreels.config import ConfigError
from skyreels.media.encode import VideoCodec
from skyreels.parts import Part
from skyreels.storage import Storage, sha256_of

FAILURES = "failures.jsonl"
_SUFFIXES: dict[OutputKind, str] = {"video": ".mp4", "sound": ".wav", "still": ".png"}
_LONGEST_REASON = 2000


@dataclass(frozen=True)
class Making:
    """How clips are made. `device` "" is cuda where there is one, `dtype` None as the weights were saved."""

    model: str
    output: str
    device: str = ""
    dtype: torch.dtype | None = None
    enhancer: EnhancerConfig | None = field(default_factory=EnhancerConfig)
    finish: str = ""
    codec: VideoCodec = "h264"

    @property
    def log(self) -> CommitLog:
        """What is done."""
        return CommitLog(Storage(self.output))


@dataclass(frozen=True)
class Failure:
    """A line that is no clip: its number or name, and why."""

    line: str
    why: str


def read_list(path: str | Path) -> tuple[list[Part], list[Failure]]:
    """A part for each line that is a request with its files there, and what is wrong with the others.

    A part's id tells the request and its files as they are now: what has changed since is made anew.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: give a file with one JSON object a line")
    parts: dict[str, Part] = {}
    failures = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            one = read_line(line, number, path)
            if one.name in parts:
                raise ConfigError(f"the name {one.name!r} is there before: give each its own")
            one.request.check()
            files = {name: _state(place) for name, place in one.files.items()}
        except (ValueError, OSError) as error:
            failures.append(Failure(f"line {number}", str(error)))
            continue
        asked = one.request.model_dump(mode="json", exclude_unset=True)
        work = {"name": one.name, "request": asked, "files": {name: str(place) for name, place in one.files.items()}}
        parts[one.name] = Part(f"{one.name}-{digest({'request': asked, 'files': files})}", json.dumps(work))
    return list(parts.values()), failures


@dataclass
class ClipMaker:
    """Implements `Worker`: the model is loaded once, for all parts that come to it."""

    making: Making

    def __call__(self, part: Part) -> Mapping[str, Any]:
        """Make and commit the clip of a part; the facts say `why` where it cannot be made."""
        self._generator  # noqa: B018 (a model that cannot be read is no request's fault)
        try:
            files = self._made(json.loads(part.work))
            facts: dict[str, Any] = {}
        except (ValueError, torch.OutOfMemoryError, MemoryError) as error:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            files, facts = (), {"why": str(error)[:_LONGEST_REASON] or type(error).__name__}
        self.making.log.commit(Commit(part_id=part.part_id, files=files, facts=facts))
        return facts

    def _made(self, work: Mapping[str, Any]) -> tuple[CommittedFile, ...]:
        request = GenerationRequest.model_validate(work["request"])
        files = {name: Path(place) for name, place in work["files"].items()}
        with MediaReader() as reader:
            request = with_regions(request, files, reader)
            prepared = prepare(request, files, self._spec, reader, self._enhance)
        kind: OutputKind = "still" if request.still else "video" if request.picture else "sound"
        storage = Storage(self.making.output).sub("clips")
        output = Output(storage.location(name := work["name"] + _SUFFIXES[kind]), kind, storage, name)
        render(
            self._generator,
            prepared,
            output,
            asked=work["request"] | request.model_dump(mode="json", include={"regions"}, exclude_defaults=True),
            finish=self._finish,
            windows=windows_of(request, prepared),
            codec=self.making.codec,
        )
        return tuple(_committed(storage, made) for made in (output.name, output.record_name))

    @cached_property
    def _generator(self) -> Generator:
        return Generator.from_pretrained(self.making.model, self._device, self.making.dtype)

    @cached_property
    def _spec(self) -> GeneratorSpec:
        return read_spec(self.making.model)

    @cached_property
    def _enhance(self) -> Any:
        return None if self.making.enhancer is None else enhancer(self.making.enhancer, self._device)

    @cached_property
    def _finish(self) -> Any:
        return load_finish(self.making.finish)

    @property
    def _device(self) -> str:
        return self.making.device or ("cuda" if torch.cuda.is_available() else "cpu")


def remaining(making: Making, parts: list[Part], *, again: bool = False) -> list[Part]:
    """Those that are not done, or whose files are gone; `again` counts what failed before as not done."""
    done = {commit.part_id: commit for commit in making.log.intact_of(part.part_id for part in parts)}
    return [part for part in parts if part.part_id not in done or (again and "why" in done[part.part_id].facts)]


def failed(making: Making, parts: list[Part]) -> Iterator[Failure]:
    """Those of the committed parts that could not be made."""
    for commit in making.log.intact_of(part.part_id for part in parts):
        if (why := commit.facts.get("why")) is not None:
            yield Failure(commit.part_id.rpartition("-")[0], why)


def _state(place: Path) -> list[int]:
    """Size and time of a file. Raises OSError where there is none."""
    found = place.stat()
    return [found.st_size, found.st_mtime_ns]


def _committed(storage: Storage, name: str) -> CommittedFile:
    return CommittedFile(name=f"clips/{name}", sha256=sha256_of(storage.location(name)), bytes=storage.size(name))
