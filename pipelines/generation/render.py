"""A prepared call through a generator into one file, with a record beside it.

MP4 with sound, WAV or FLAC for sound alone, PNG or JPEG for one picture; the record is JSON under the same name.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from model.folder import TRANSFORMER
from model.generation.prepared import Prepared
from model.generation.steps import Generated, Progress
from model.generator import Generator
from pipelines.generation.finishing import Finish, finished
from pipelines.generation.request import GenerationRequest, RequestError
from pipelines.generation.windows import Windows, decode_windows, make_windows
from skyreels.media.encode import VideoCodec, write_flac, write_video, write_wav
from skyreels.media.image import write_image
from skyreels.storage import Storage, normalise

OutputKind = Literal["video", "sound", "still"]
SUFFIXES: dict[str, OutputKind] = {
    ".mp4": "video",
    ".wav": "sound",
    ".flac": "sound",
    ".png": "still",
    ".jpg": "still",
    ".jpeg": "still",
}
_TRIED_BYTES = 1 << 16  # an empty file finds room on a full disk
_SHEET_PICTURES, _SHEET_SIDE = 16, 4
_RECORD_KEYS = frozenset({"request", "clip", "model", "seconds"})


@dataclass(frozen=True)
class Output:
    """A place that a clip can be written to, and its record beside it."""

    location: str
    kind: OutputKind
    storage: Storage
    name: str

    @property
    def record_name(self) -> str:
        return str(PurePosixPath(self.name).with_suffix(".json"))


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


def output_kind(location: str) -> OutputKind:
    """What the suffix of `location` stands for. Raises RequestError."""
    suffix = PurePosixPath(location).suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError("output", f"{location!r} must end in one of {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def open_output(request: GenerationRequest, location: str, inputs: Iterable[Path] = ()) -> Output:
    """The place for what `request` makes, a path or s3://…, tried before any work is done.

    Raises RequestError where the suffix is another's, nothing can be written there, or the clip or its record would
    replace one of `inputs`, or a file that is no record of a clip.
    """
    asked: OutputKind = "still" if request.still else "video" if request.picture else "sound"
    if output_kind(location) != asked:
        fitting = ", ".join(suffix for suffix, kind in SUFFIXES.items() if kind == asked)
        raise RequestError("output", f"{location!r} cannot hold what is asked for, {asked}: end it in {fitting}")
    folder, _, name = normalise(location).rpartition("/")
    output = Output(location, asked, Storage(folder or "/"), name)
    _check_replaced(output, inputs)
    probe = f".tmp-{uuid.uuid4().hex}"
    try:
        output.storage.write(probe, bytes(_TRIED_BYTES))
        output.storage.delete(probe)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        message = f"nothing can be written to {folder} ({reason}): choose another place, or make room"
        raise RequestError("output", message) from error
    return output


def render(
    generator: Generator,
    prepared: Prepared,
    output: Output,
    *,
    asked: Mapping[str, Any],
    on_step_end: Callable[[Progress], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
    watch: Stopwatch | None = None,
    finish: Finish | None = None,
    windows: Windows | None = None,
    codec: VideoCodec = "h264",
) -> Rendered:
    """Make the clip, publish it and then its record; of a clip in `windows`, `prepared` is the first of them.

    Pictures are decoded as they are encoded. The same seed gives the same file on one device. `asked` is what the
    record says of the request; `provenance` is what it says of the model besides identities; `watch` has timed what
    came before; `finish` is given the file and its record before they are published; `codec` is that of a video.
    Raises ValueError.
    """
    watch = watch or Stopwatch()
    with watch.timing("generate"):
        if windows is None:
            made = generator.render(prepared, callback_on_step_end=on_step_end, output_type="stream")
        else:
            made = decode_windows(generator, windows, make_windows(generator, windows, on_step_end))
    facts = {
        "request": {**asked, "seed": prepared.seed},
        "prompt": prepared.prompt,
        "remarks": list(prepared.remarks),
        "clip": clip_facts(made, output.kind),
        "model": {**generator.components.identities(), **(provenance or {})},
        "device": str(generator.placement.device),
        "torch": torch.__version__,
        "seconds": watch.seconds,
    }
    with TemporaryDirectory(prefix="skyreels-clip-") as scratch, watch.timing("write"):
        path = Path(scratch) / output.name
        write_clip(made, output.kind, path, origin(generator.components.identities(), prepared.seed), codec)
        facts = finished(finish, path, facts)
        output.storage.upload(path, output.name)
    record = (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()
    output.storage.write(output.record_name, record)
    return Rendered(output.location, output.storage.location(output.record_name), facts)


def _check_replaced(output: Output, inputs: Iterable[Path]) -> None:
    storage = output.storage
    places = {name: Path(storage.location(name)) for name in (output.name, output.record_name) if storage.is_local}
    if (place := places.get(output.name)) is not None and place.is_dir():
        raise RequestError("output", f"{place} is a folder: name a file")
    for place in places.values():
        for given in inputs:
            if place.exists() and given.exists() and place.samefile(given):
                raise RequestError("output", f"{place} would replace what the clip is made from: choose another name")
    if storage.exists(output.record_name) and not _is_record(storage.read(output.record_name)):
        message = f"{storage.location(output.record_name)} is there and no record of a clip, and would be replaced"
        raise RequestError("output", f"{message}: choose another name, or move it away")


def _is_record(data: bytes) -> bool:
    try:
        value = json.loads(data)
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() >= _RECORD_KEYS


def origin(identities: Mapping[str, str], seed: int | None, **more: Any) -> Mapping[str, Any]:
    """What a clip says of itself: that a model made it, which one, and from which seed."""
    told = {"made_by_ai": True, "model": identities.get(TRANSFORMER, ""), "seed": seed, **more}
    return {name: value for name, value in told.items() if value is not None}


def write_clip(
    made: Generated, kind: OutputKind, path: Path, told: Mapping[str, Any], codec: VideoCodec = "h264"
) -> None:
    """To a local file, whose suffix tells the format; a video's container holds what is `told`, as JSON."""
    sound = None if made.audio is None else made.audio.numpy()
    rate = made.clip.audio.sample_rate if made.clip.audio is not None else 0
    if kind == "still":
        write_image(path, next(iter(made.frames)))
    elif kind == "video":
        comment = json.dumps(told)
        write_video(path, made.frames, made.clip.fps, audio=sound, sample_rate=rate, codec=codec, comment=comment)
    elif sound is not None:
        (write_wav if path.suffix.lower() == ".wav" else write_flac)(path, sound, rate)


def clip_facts(made: Generated, kind: OutputKind) -> dict[str, Any]:
    """What a record tells of a clip: sizes, rates, lengths."""
    facts: dict[str, Any] = {}
    if made.frames is not None:
        facts |= {"frames": made.clip.frames, "width": made.clip.width, "height": made.clip.height}
    if kind != "still":
        facts |= {"seconds": round(made.clip.seconds, 4), "fps": made.clip.fps}
    if made.audio is not None and made.clip.audio is not None:
        facts |= {"sample_rate": made.clip.audio.sample_rate, "channels": made.audio.shape[0]}
    return facts


def contact_sheet(frames: np.ndarray) -> np.ndarray:
    """Sixteen of (F, H, W, 3) frames, evenly apart, in four rows: (4 * H, 4 * W, 3)."""
    chosen = frames[np.linspace(0, len(frames) - 1, _SHEET_PICTURES).round().astype(int)]
    rows = [np.concatenate(list(chosen[start : start + _SHEET_SIDE]), axis=1) for start in range(0, 16, _SHEET_SIDE)]
    return np.concatenate(rows, axis=0)
