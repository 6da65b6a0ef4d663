"""Layers: what models say of clips (embeddings, transcripts, captions), kept apart from the clips themselves.

    <output>/layers/<name>-<identity>/{parts,_commits}

A layer's identity names what made it (backend, model, settings), so a new model makes a new layer beside the old
one and no clip is decoded twice for the same answer. An answer is for what its clip is `made_of`: of a clip that was
cut from other bytes under the same key, the layer is asked again. Layers are computed by actor pools on Ray Data and
committed part by part; a clip whose answer failed is asked again by the next run.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from pipelines.curation.recipe import WorkersConfig
from pipelines.dataset.exchange import Steps, receive, send
from pipelines.dataset.tables import Row, concat, decode, encode
from skyreels import parts
from skyreels.commits import Commit, CommitLog, CommittedFile, describe, digest, stable_json
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)

_SENDERS = 256


class LayerFailed(RuntimeError):
    """No model could be asked: it is not there, does not fit, or its worker died. What is committed stays."""


class Worker(Protocol):
    """Answers for clips. Every returned row carries its clip's `key`; `error` is None, or says what went wrong."""

    def __call__(self, clips: Sequence[Row]) -> list[Row]: ...


@dataclass(frozen=True)
class Layer:
    """A layer's name, what made it, which clips it is for, and who answers.

    Either `make_worker(**arguments)` is called inside an actor, or `stream` turns a dataset of clips (and their rows)
    into one of answers, for engines that bring their own Ray Data pipeline.
    """

    name: str
    made_by: Mapping[str, Any]
    wants: Callable[[Row], bool]
    workers: WorkersConfig
    make_worker: Callable[..., Worker] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    stream: Callable[[ray.data.Dataset, Sequence[Row]], ray.data.Dataset] | None = None
    holds_model: bool = True  # False: a worker is made in no time, so plain tasks do and no actor has to start

    @property
    def identity(self) -> str:
        return digest(dict(self.made_by))

    def storage(self, output: Storage) -> Storage:
        return output.sub(f"layers/{self.name}-{self.identity}")


def unanswered(layer: Layer, clips: Sequence[Row], output: Storage) -> list[Row]:
    """The clips that this layer is for and has no answer for yet, in order of key."""
    answered = {
        (key, commit.facts["made_of"][key])
        for commit in CommitLog(layer.storage(output)).intact().values()
        if "made_of" in commit.facts
        for key in commit.keys
    }
    missing = [clip for clip in clips if (clip["key"], clip["made_of"]) not in answered and layer.wants(clip)]
    return sorted(missing, key=lambda clip: str(clip["key"]))


def fill(layer: Layer, clips: Sequence[Row], output: Storage, *, here: bool = False) -> Iterator[int]:
    """Ask about these clips, on the cluster or `here`; yields the number of clips as parts are committed.

    Raises Incomplete, when all the others are written, where the store failed; LayerFailed where the model did.
    """
    outcomes = (
        _streamed(layer, clips, output) if layer.stream is not None else _by_parts(layer, clips, output, here=here)
    )
    try:
        for outcome in parts.committed(outcomes, layer.storage(output).root):
            yield int(outcome.facts["clips"])
    except RayError as error:
        logger.debug("the worker's traceback", exc_info=error)
        made_by = stable_json(dict(layer.made_by)).decode()
        raise LayerFailed(
            f"{layer.name} could not be made with {made_by}: {_cause(error)}. Mend the setting (or memory, or the "
            "network), then run the same command again; what is done stays"
        ) from error


def _cause(error: RayError) -> str:
    """The last line of the worker's own traceback; Ray's follow it as consequences."""
    own = str(error).partition("\n\nThe above exception was the direct cause")[0]
    return own.strip().splitlines()[-1].strip(" .")


def _by_parts(layer: Layer, clips: Sequence[Row], output: Storage, *, here: bool) -> Iterator[parts.Outcome]:
    size, takes = layer.workers.clips_per_part, layer.workers
    groups = [clips[start : start + size] for start in range(0, len(clips), size)]
    todo = [parts.Part(group[0]["key"], stable_json(group).decode()) for group in groups]
    if here:
        return parts.run_in_process(todo, partial(_LayerWorker, layer, output.root))
    kept = layer.workers.count if layer.holds_model else None
    resources = parts.Resources(takes.num_cpus, takes.num_gpus, kept)
    return parts.run_parts(todo, partial(_LayerWorker, layer, output.root), resources)


def _streamed(layer: Layer, clips: Sequence[Row], output: Storage) -> Iterator[parts.Outcome]:
    """Answers are committed as they come, in parts of whatever clips are ready."""
    assert layer.stream is not None

    made_of = {clip["key"]: clip["made_of"] for clip in clips}

    def commit_batch(batch: pa.Table) -> pa.Table:
        answers = [{"error": None, **row, "made_of": made_of[row["key"]]} for row in batch.to_pylist()]
        store = layer.storage(Storage(output.root))
        outcome = parts.attempt(lambda _: _commit(layer, store, answers), parts.Part(answers[0]["key"], ""))
        return pa.Table.from_pylist([asdict(outcome) | {"facts": json.dumps(outcome.facts)}])

    asked = [{"key": clip["key"], "clip": stable_json(clip).decode()} for clip in clips]
    answers = layer.stream(ray.data.from_items(asked), clips)
    done = answers.map_batches(
        commit_batch, batch_size=layer.workers.clips_per_part, batch_format="pyarrow", num_cpus=0.5
    )
    return (parts.Outcome(**{**row, "facts": json.loads(row["facts"])}) for row in done.iter_rows())


def read_layer(layer: Layer, clips: Iterable[Row], output: Storage) -> dict[str, Row]:
    """Answers about these clips, by key; a success replaces a failure."""
    log = CommitLog(layer.storage(output))
    tables = (_answers(log, file) for commit in log.intact().values() for file in commit.files)
    return _about(clips, (row for table in tables for row in table.to_pylist()))


def _about(clips: Iterable[Row], answers: Iterable[Row]) -> dict[str, Row]:
    """Of answers those that are about what these clips are made of."""
    made_of = {clip["key"]: clip["made_of"] for clip in clips}
    rows: dict[str, Row] = {}
    for row in answers:
        asked_about = row.pop("made_of", None)
        if made_of.get(row["key"]) == asked_about and (row["key"] not in rows or row["error"] is None):
            rows[row["key"]] = row
    return rows


Answers = Callable[[Layer, Sequence[Row]], dict[str, Row]]
"""What a layer says of clips, by key."""


@dataclass(frozen=True)
class SentAnswers:
    """Answers that were sent to slices: by layer, the step that did and how many senders it had."""

    store: Storage
    sent: Mapping[str, tuple[str, int]]

    def of(self, index: int) -> Answers:
        return partial(self._received, index)

    def _received(self, index: int, layer: Layer, clips: Sequence[Row]) -> dict[str, Row]:
        step, senders = self.sent[layer.name]
        return _about(clips, receive(self.store, step, senders, index).to_pylist())


def send_answers(
    steps: Steps, layers: Iterable[Layer], output: Storage, place: Callable[[Sequence[str]], NDArray[np.int64]]
) -> SentAnswers:
    """Send what layers say to the slices of their clips; `place` gives those of keys. Done anew where a layer grew."""
    sent = {}
    for layer in layers:
        parts_of = sorted(CommitLog(layer.storage(output)).done())
        step = f"answers-{layer.name}-{digest({'parts': parts_of})}"
        senders = min(len(parts_of), _SENDERS)
        steps.run(step, _Send(steps.store, step, layer.storage(output), place, senders), senders)
        sent[layer.name] = (step, senders)
    return SentAnswers(steps.store, sent)


@dataclass(frozen=True)
class _Send:
    """The answers of every `senders`-th part of a layer."""

    store: Storage
    step: str
    layer: Storage
    place: Callable[[Sequence[str]], NDArray[np.int64]]
    senders: int

    def __call__(self, index: int) -> Mapping[str, Any]:
        log = CommitLog(self.layer)
        mine = sorted(log.done())[index :: self.senders]
        found = [_answers(log, file) for commit in log.intact_of(mine) for file in commit.files]
        table = concat(found) if found else pa.table({"key": pa.array([], pa.string())})
        send(self.store, f"{self.step}/{index:06d}", table, self.place(table["key"].to_pylist()))
        return {"answers": len(table)}


def _answers(log: CommitLog, file: CommittedFile) -> pa.Table:
    try:
        return decode(log.read_file(file), log.storage.location(file.name))
    except DamageError as error:
        raise DamageError(f"{error}: run `jobs/curate.py verify`; its answers will be asked for again") from error


class _LayerWorker:
    """Holds the model; answers one part of clips at a time and commits it."""

    def __init__(self, layer: Layer, output: str) -> None:
        assert layer.make_worker is not None
        self._layer = layer
        self._store = layer.storage(Storage(output))
        self._worker = layer.make_worker(**layer.arguments)

    def __call__(self, part: parts.Part) -> Row:
        clips = json.loads(part.work)
        return _commit(self._layer, self._store, checked(clips, self._worker(clips)))


def _commit(layer: Layer, store: Storage, answers: Sequence[Row]) -> Row:
    """Write and commit answers; what they came to."""
    keys = sorted(row["key"] for row in answers if row["error"] is None)
    failed = {row["key"]: row["error"] for row in answers if row["error"] is not None}
    made_of = {row["key"]: row["made_of"] for row in answers}
    part_id = hashlib.blake2b(stable_json([keys, failed, made_of]), digest_size=10).hexdigest()
    name = f"parts/{part_id}.parquet"
    with store.staged(name) as path:
        path.write_bytes(encode(pa.Table.from_pylist(list(answers))))
        file = describe(name, path, keys)
    facts = {"made_by": dict(layer.made_by), "failed": failed, "made_of": made_of}
    CommitLog(store).commit(Commit(part_id=part_id, files=(file,), facts=facts))
    return {"clips": len(answers)}


def checked(clips: Sequence[Row], answers: Sequence[Row]) -> list[Row]:
    """The answers in the clips' order, each under its own key; a missing, foreign or double key is an error row."""
    by_key: dict[str, list[Row]] = {}
    for answer in answers:
        by_key.setdefault(answer["key"], []).append(answer)
    rows = []
    for clip in clips:
        given = by_key.get(clip["key"], [])
        if len(given) == 1:
            rows.append({"error": None, **given[0], "made_of": clip["made_of"]})
        else:
            why = f"{len(given)} answers came back for this clip, wanted one"
            rows.append({"key": clip["key"], "error": why, "made_of": clip["made_of"]})
    return rows
