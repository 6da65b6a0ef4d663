"""Prompts of one's own as JSON lines, prepared for a model that does not exist yet: what is sampled while it trains."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.generation.prepared import GeneratorSpec
from model.generation.wire import to_bytes
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.request import GenerationRequest
from skyreels.config import ConfigError, build

_EXAMPLE = '{"prompt": "a red ball falls", "seed": 1}'


@dataclass(frozen=True)
class NamedRequest:
    """One line: its name, what it asks, and the files it names, which lie relative to the list."""

    name: str
    request: GenerationRequest
    files: Mapping[str, Path]


def read_prompts(path: str | Path) -> list[NamedRequest]:
    """The lines of a file, each the fields of a request and a `name`; without a seed it is 0.

    Raises ConfigError, or RequestError for media that cannot be used, before anything is trained.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: give a file with one JSON object a line, such as {_EXAMPLE}")
    found: dict[str, NamedRequest] = {}
    with MediaReader() as reader:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip():
                continue
            one = read_line(line, number, path)
            if one.request.window is not None:
                raise ConfigError(f"{path}, line {number}: samples are made at once: leave window out")
            if one.name in found:
                raise ConfigError(f"{path}, line {number}: the name {one.name!r} is there before: give each its own")
            one.request.check()
            reader.check(one.request.files(one.files), still=one.request.still)
            found[one.name] = one
    if not found:
        raise ConfigError(f"{path} holds no prompt: give one JSON object a line")
    return list(found.values())


@dataclass(frozen=True)
class Prompts:
    """Prepares the list in a file for a model of some spec: prepared calls by name, as bytes."""

    path: str

    def check(self) -> None:
        """Raises as `read_prompts`."""
        read_prompts(self.path)

    def __call__(self, spec: GeneratorSpec) -> dict[str, bytes]:
        """What the model cannot make, such as sound before it has learned any, is told and left out."""
        prepared: dict[str, bytes] = {}
        with MediaReader() as reader:
            for one in read_prompts(self.path):
                try:
                    call = prepare(one.request, one.files, spec, reader)
                except ValueError as error:
                    print(f"prompts   {one.name} is left out of the samples here: {error}")
                    continue
                prepared[one.name] = to_bytes(call)
        return prepared


def read_line(line: str, number: int, path: Path) -> NamedRequest:
    """A line of the list `path`; names of files are relative to it. Raises ConfigError."""
    where = f"{path}, line {number}"
    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: no JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: wants an object such as {_EXAMPLE}")
    name = str(values.pop("name", f"prompt-{number:03d}"))
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{where}: the name {name!r} names files: use letters, digits, - and _")
    request = build(GenerationRequest, {"seed": 0, **values}, where)
    return NamedRequest(name, request, {given: path.parent / given for given in request.names()})
