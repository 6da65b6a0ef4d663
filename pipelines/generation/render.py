"""One request through a generator into one file, with a record beside it."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from model.generation.run import Generated, Progress
from model.generator import Generator
from pipelines.generation.arguments import call_arguments
from pipelines.generation.media import MediaReader
from pipelines.generation.output import OutputKind, check_output, record_name, write_output
from pipelines.generation.request import GenerationRequest
from skyreels.storage import Storage, normalise


@dataclass(frozen=True)
class Rendered:
    """Where the clip and its record are, and what the record says."""

    output: str
    record: str
    facts: Mapping[str, Any]


@dataclass
class Stopwatch:
    """Seconds by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def render(
    generator: Generator,
    request: GenerationRequest,
    output: str,
    reader: MediaReader,
    *,
    on_step_end: Callable[[Progress], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Rendered:
    """Make the clip, publish it at `output` (a path or s3://…) and its record beside it as JSON.

    The same seed gives the same file on one device; None draws one, and the record tells it. `provenance` is what
    the caller adds to the record. Raises ValueError (RequestError where a field is to blame).
    """
    request.check()
    kind = check_output(request, output)
    reader.check(request)
    watch = Stopwatch()
    seed = secrets.randbits(32) if request.seed is None else request.seed
    with watch.timing("read"):
        arguments = call_arguments(generator, request, reader)
    with watch.timing("generate"):
        made = generator(
            request.prompt,
            request.negative_prompt,
            **arguments,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=on_step_end,
        )
    folder, _, name = normalise(output).rpartition("/")
    storage = Storage(folder)
    with TemporaryDirectory(prefix="skyreels-clip-") as scratch, watch.timing("write"):
        path = Path(scratch) / name
        write_output(made, kind, path)
        storage.upload(path, name)
    asked = request.model_dump(mode="json", exclude_defaults=True)
    facts = {
        "request": {**asked, "seed": seed},
        "clip": _clip_facts(made, kind),
        "model": {**generator.components.identities(), **(provenance or {})},
        "device": str(generator.placement.device),
        "torch": torch.__version__,
        "seconds": watch.seconds,
    }
    storage.write(record_name(name), (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())
    return Rendered(output, storage.location(record_name(name)), facts)


def _clip_facts(made: Generated, kind: OutputKind) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if made.frames is not None:
        count, height, width, _ = made.frames.shape
        facts |= {"frames": count, "width": width, "height": height}
    if kind != "still":
        facts |= {"seconds": round(made.clip.seconds, 4), "fps": made.clip.fps}
    if made.audio is not None and made.clip.audio is not None:
        facts |= {"sample_rate": made.clip.audio.sample_rate, "channels": made.audio.shape[0]}
    return facts
