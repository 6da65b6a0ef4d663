"""Work over columns in slices: the same steps for a hundred rows in one process and for billions on a cluster.

A step does each slice by itself, in a task, and leaves files below its name (`step/000000.parquet`, or
`step/what/000000.parquet`) and a few facts (`step/000000.json`, written last: numbers for whoever plans the next step).
Rows that another task must see together go through files as well: `send` groups them by receiver, `receive` reads one
receiver's share of what all senders wrote. What a step finished stays, so a run that is killed goes on from there; of a
damaged file the slice counts as not done, and the next run makes it anew. The rows themselves never pass the driver.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.dataset.tables import concat
from skyreels import parts
from skyreels.cluster import LazyCluster
from skyreels.commits import stable_json
from skyreels.storage import DamageError, Storage, open_input

Facts = Mapping[str, Any]
"""What a slice came to, as JSON has it: a summary, small whatever the slice holds."""

_RECEIVERS = b"receivers"


@dataclass(frozen=True)
class Steps:
    """Where the steps of one piece of work leave their files, and the cluster that they run on when there is more than
    one slice; None: always in this process. `task_bytes` of memory are kept free for each task."""

    store: Storage
    cluster: LazyCluster | None = None
    task_bytes: int = 0

    def run(self, name: str, do: Callable[[int], Facts], slices: int) -> list[Facts]:
        """The facts of every slice, in order. `do(index)` must be the same whenever and wherever it is called.

        Raises Incomplete, when all the others are done, where the store failed; DamageError for a file that is not as
        it was written.
        """
        todo = [parts.Part(f"{index:06d}", "") for index in range(slices)]
        make_worker = partial(_Step, self.store, name, do)
        if slices > 1 and self.cluster is not None:
            self.cluster.join()
            outcomes = parts.run_parts(todo, make_worker, parts.Resources(memory_bytes=self.task_bytes))
        else:
            outcomes = parts.run_in_process(todo, make_worker)
        done = {}
        for outcome in parts.committed(outcomes, self.store.root):
            if "damage" in outcome.facts:
                raise DamageError(str(outcome.facts["damage"]))
            done[outcome.part_id] = outcome.facts
        return [done[part.part_id] for part in todo]


@dataclass(frozen=True)
class _Step:
    store: Storage
    name: str
    do: Callable[[int], Facts]

    def __call__(self, part: parts.Part) -> Facts:
        finished = f"{self.name}/{part.part_id}.json"
        if self.store.exists(finished):
            known: Facts = json.loads(self.store.read(finished))
            return known
        try:
            facts = dict(self.do(int(part.part_id)))
        except DamageError as error:
            return {"damage": f"{error}"}
        self.store.write(finished, stable_json(facts))
        return facts


def write(store: Storage, name: str, table: pa.Table) -> None:
    """One slice of a step, as `<name>.parquet`."""
    send(store, name, table, np.zeros(len(table), np.int64))


def read(store: Storage, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """What `write` wrote. Raises DamageError, and has the file made anew by the next run."""
    return concat(list(_groups(store, name, None, columns)))


def batches(store: Storage, name: str, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The same in tables of at most `size` rows."""
    table = read(store, name, columns)
    for start in range(0, len(table), size):
        yield table.slice(start, size)


def send(store: Storage, name: str, table: pa.Table, receivers: NDArray[np.int64]) -> None:
    """Write rows as `<name>.parquet`, in one group for each receiver, (N,) numbers, in the order they are in."""
    order = np.argsort(receivers, kind="stable")
    there, starts = np.unique(receivers[order], return_index=True)
    ordered = table.take(pa.array(order)) if len(there) > 1 else table
    schema = table.schema.with_metadata({_RECEIVERS: json.dumps(there.tolist()).encode()})
    with (
        store.staged(f"{name}.parquet") as path,
        pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for start, end in zip(starts, [*starts, len(table)][1:], strict=True):
            writer.write_table(ordered.slice(start, end - start), row_group_size=int(end - start))


def receive(store: Storage, step: str, senders: int, receiver: int) -> pa.Table:
    """The rows that the slices of a step sent to a receiver, in order of sender."""
    found = [
        table for sender in range(senders) for table in _groups(store, f"{step}/{sender:06d}", receiver, None)
    ]  # fmt: skip
    return concat(found)


def _groups(store: Storage, name: str, receiver: int | None, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """Of one receiver, or of all; where there is nothing, a table of no rows."""
    where = store.location(f"{name}.parquet")
    try:
        with open_input(where) as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            there = json.loads(file.schema_arrow.metadata[_RECEIVERS])
            wanted = [i for i, r in enumerate(there) if receiver is None or r == receiver]
            names = None if columns is None else list(columns)
            yield file.read_row_groups(wanted, columns=names).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            reason = "it is gone"
        else:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        step, _, slice_name = name.partition("/")
        store.delete(f"{step}/{slice_name.rpartition('/')[2]}.json")  # the slice counts as not done
        raise DamageError(f"{where} is damaged ({reason}): run the same command again, it is made anew") from error
