"""Layers: what models say of clips (embeddings, transcripts, captions), kept apart from the clips themselves.

    <output>/layers/<name>-<identity>/{parts,_commits}

A layer's identity names what made it (backend, model, settings), so a new model makes a new layer beside the old
one and no clip is decoded twice for the same answer. Layers are computed by actor pools on Ray Data and committed
part by part; a clip whose answer failed is asked again by the next run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray

from pipelines.curation import tables
from pipelines.curation.recipe import WorkersConfig
from skyreels.commits import Commit, CommitLog, describe, stable_json
from skyreels.storage import Storage

Row = dict[str, Any]


class Worker(Protocol):
    """Answers for clips. Every returned row carries its clip's `key`; `error` is None, or says what went wrong."""

    def __call__(self, clips: Sequence[Row]) -> list[Row]: ...


@dataclass(frozen=True)
class Layer:
    """A layer's name, what made it, and how to make a worker for it inside an actor."""

    name: str
    made_by: Mapping[str, Any]
    make_worker: Callable[..., Worker]
    arguments: Mapping[str, Any]
    workers: WorkersConfig

    @property
    def identity(self) -> str:
        return digest(dict(self.made_by))

    def storage(self, output: Storage) -> Storage:
        return output.sub(f"layers/{self.name}-{self.identity}")


def unanswered(layer: Layer, clips: Sequence[Row], output: Storage) -> list[Row]:
    """The clips that have no answer in this layer yet, in order of key."""
    answered = {key for commit in CommitLog(layer.storage(output)).all() for key in commit.keys}
    return sorted((clip for clip in clips if clip["key"] not in answered), key=lambda clip: str(clip["key"]))


def fill(layer: Layer, clips: Sequence[Row], output: Storage) -> Iterator[int]:
    """Ask the layer's workers about these clips; yields the number of clips as parts are committed."""
    size = layer.workers.clips_per_part
    parts = [{"part": stable_json(clips[start : start + size]).decode()} for start in range(0, len(clips), size)]
    answers = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
        _LayerActor,
        fn_constructor_kwargs={"layer": layer, "output": output.root},
        compute=ray.data.ActorPoolStrategy(size=min(layer.workers.count, len(parts))),
        num_cpus=layer.workers.num_cpus,
        num_gpus=layer.workers.num_gpus,
    )
    for row in answers.iter_rows():
        yield int(row["clips"])


def read_layer(layer: Layer, output: Storage) -> dict[str, Row]:
    """Answers by clip key; a later success replaces an earlier failure."""
    store = layer.storage(output)
    rows: dict[str, Row] = {}
    for commit in CommitLog(store).all():
        for file in commit.files:
            for row in tables.decode(store.read(file.name)).to_pylist():
                if row["key"] not in rows or row["error"] is None:
                    rows[row["key"]] = row
    return rows


class _LayerActor:
    """Holds the model; answers one part of clips at a time and commits it."""

    def __init__(self, layer: Layer, output: str) -> None:
        self._layer = layer
        self._store = layer.storage(Storage(output))
        self._worker = layer.make_worker(**layer.arguments)

    def __call__(self, row: Row) -> Row:
        clips = json.loads(row["part"])
        answers = checked(clips, self._worker(clips))
        self._commit(answers)
        return {"clips": len(answers)}

    def _commit(self, answers: list[Row]) -> None:
        keys = [row["key"] for row in answers if row["error"] is None]
        failed = {row["key"]: row["error"] for row in answers if row["error"] is not None}
        part_id = hashlib.blake2b(stable_json([keys, failed]), digest_size=10).hexdigest()
        name = f"parts/{part_id}.parquet"
        with self._store.staged(name) as path:
            path.write_bytes(tables.encode(pa.Table.from_pylist(answers)))
            file = describe(name, path, keys)
        CommitLog(self._store).commit(
            Commit(part_id=part_id, files=(file,), facts={"made_by": dict(self._layer.made_by), "failed": failed})
        )


def digest(value: Mapping[str, Any]) -> str:
    """12 hex digits that name a set of settings."""
    return hashlib.blake2b(stable_json(value), digest_size=6).hexdigest()


def checked(clips: Sequence[Row], answers: Sequence[Row]) -> list[Row]:
    """The answers in the clips' order, each under its own key; a missing, foreign or double key is an error row."""
    by_key: dict[str, list[Row]] = {}
    for answer in answers:
        by_key.setdefault(answer["key"], []).append(answer)
    rows = []
    for clip in clips:
        given = by_key.get(clip["key"], [])
        if len(given) == 1:
            rows.append({"error": None, **given[0]})
        else:
            rows.append({"key": clip["key"], "error": f"{len(given)} answers came back for this clip, wanted one"})
    return rows
