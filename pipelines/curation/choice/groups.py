"""Connected groups of clips that may repeat each other, from pairs that lie in many files: nobody holds all of them.

The two rounds of Kiveris et al. 2014 (Connected Components in MapReduce and Beyond), each a step of tasks that know all
neighbours of their share of the nodes: in `large` every neighbour above a node is joined to the least one around it, in
`small` those below it are. No round adds a pair, and what no round changes are stars around each group's least node.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.curation.choice.meeting import spread
from pipelines.dataset.exchange import Facts, Steps, read, receive, send, write
from skyreels.storage import Storage

Nodes = NDArray[np.uint64]

_PER_TASK = 1 << 22  # pairs
_SLICE_BITS = 16  # of a node; the rest is of its key
_HASH_BITS = 64 - _SLICE_BITS


class Groups(NamedTuple):
    """The step whose files say for each slice which group its nodes are in, how many tasks it had, and of how many."""

    step: str
    senders: int
    nodes: int


def nodes_of(keys: Sequence[str], slices: NDArray[np.int32]) -> Nodes:
    """A number for each clip, (N,), from its key and its slice; two that share one by chance are in one group."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    hashes = np.frombuffer(digests, np.uint64) >> np.uint64(_SLICE_BITS)
    return slices.astype(np.uint64) << np.uint64(_HASH_BITS) | hashes


def write_pairs(store: Storage, name: str, pairs: Nodes) -> None:
    """Write (P, 2) nodes as `<name>.parquet`."""
    write(store, name, pa.table({"node": pairs[:, 0], "other": pairs[:, 1]}))


def find_groups(steps: Steps, files: Sequence[str], pairs: int) -> Groups:
    """The groups that the `pairs` in these files of `write_pairs` connect, each named by its least node."""
    tasks = max(1, -(-pairs // _PER_TASK))
    steps.run("pairs", _Spread(steps.store, tuple(files), tasks), len(files))
    step, senders, before = "pairs", len(files), -1
    for number in count():
        facts = steps.run(f"large-{number:02d}", _Large(steps.store, step, senders, tasks, number), tasks)
        now = sum(fact["sum"] for fact in facts) % 2**64
        if now == before:
            break
        steps.run(f"small-{number:02d}", _Small(steps.store, tasks, number), tasks)
        step, senders, before = f"small-{number:02d}", tasks, now
    facts = steps.run("groups", _Named(steps.store, step, senders), tasks)
    return Groups("groups", tasks, sum(fact["nodes"] for fact in facts))


def groups_of(store: Storage, groups: Groups, index: int, nodes: Nodes) -> tuple[NDArray[np.bool_], Nodes]:
    """Which of the nodes of a slice are in a group, (N,), and the groups of these."""
    rows = receive(store, groups.step, groups.senders, index)
    if not len(rows):
        return np.zeros(len(nodes), bool), np.empty(0, np.uint64)
    known, first = np.unique(rows["node"].to_numpy(), return_index=True)
    place = np.minimum(np.searchsorted(known, nodes), len(known) - 1)
    held = known[place] == nodes
    return held, rows["other"].to_numpy()[first][place[held]]


@dataclass(frozen=True)
class _Spread:
    """The pairs of one file, sent to the tasks of both nodes."""

    store: Storage
    files: tuple[str, ...]
    tasks: int

    def __call__(self, index: int) -> Facts:
        rows = read(self.store, self.files[index])
        nodes, others = _distinct(rows["node"].to_numpy(), rows["other"].to_numpy())
        _send_both(self.store, f"pairs/{index:06d}", nodes, others, self.tasks)
        return {"pairs": len(nodes)}


@dataclass(frozen=True)
class _Large:
    """Every neighbour above a node is joined to the least around it. `sum` changes with the pairs that there are."""

    store: Storage
    step: str
    senders: int
    tasks: int
    number: int

    def __call__(self, index: int) -> Facts:
        nodes, others = _received(self.store, self.step, self.senders, index)
        starts, sizes = _runs(nodes)
        least = np.repeat(np.minimum(nodes[starts], others[starts]), sizes)
        above = others > nodes
        _send(self.store, f"large-{self.number:02d}/{index:06d}", others[above], least[above], self.tasks)
        mixed = spread(spread(nodes[above], 0) ^ others[above], 1)
        return {"pairs": len(mixed), "sum": int(np.sum(mixed, dtype=np.uint64))}


@dataclass(frozen=True)
class _Small:
    """A node and those below it are joined to the least of them."""

    store: Storage
    tasks: int
    number: int

    def __call__(self, index: int) -> Facts:
        nodes, below = _received(self.store, f"large-{self.number:02d}", self.tasks, index)
        starts, sizes = _runs(nodes)
        least = np.repeat(below[starts], sizes)
        others = np.where(below == least, nodes, below)
        _send_both(self.store, f"small-{self.number:02d}/{index:06d}", others, least, self.tasks)
        return {"pairs": len(others)}


@dataclass(frozen=True)
class _Named:
    """Each node with the least one of its group, itself with itself, sent to its slice."""

    store: Storage
    step: str
    senders: int

    def __call__(self, index: int) -> Facts:
        nodes, others = _received(self.store, self.step, self.senders, index)
        starts, _ = _runs(nodes)
        mine, least = nodes[starts], np.minimum(nodes[starts], others[starts])
        table = pa.table({"node": mine, "other": least})
        send(self.store, f"groups/{index:06d}", table, (mine >> np.uint64(_HASH_BITS)).astype(np.int64))
        return {"nodes": len(mine)}


def _send_both(store: Storage, name: str, nodes: Nodes, others: Nodes, tasks: int) -> None:
    _send(store, name, np.concatenate([nodes, others]), np.concatenate([others, nodes]), tasks)


def _send(store: Storage, name: str, nodes: Nodes, others: Nodes, tasks: int) -> None:
    receivers = (spread(nodes, 2) % np.uint64(tasks)).astype(np.int64)
    send(store, name, pa.table({"node": nodes, "other": others}), receivers)


def _received(store: Storage, step: str, senders: int, index: int) -> tuple[Nodes, Nodes]:
    rows = receive(store, step, senders, index)
    return _distinct(rows["node"].to_numpy(), rows["other"].to_numpy())


def _distinct(nodes: Nodes, others: Nodes) -> tuple[Nodes, Nodes]:
    """Each pair once, by node and other; none of a node with itself."""
    order = np.lexsort((others, nodes))
    nodes, others = nodes[order], others[order]
    new = np.ones(len(nodes), bool)
    new[1:] = (nodes[1:] != nodes[:-1]) | (others[1:] != others[:-1])
    new &= nodes != others
    return nodes[new], others[new]


def _runs(nodes: Nodes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where equal nodes begin, and how many there are of each."""
    _, starts, sizes = np.unique(nodes, return_index=True, return_counts=True)
    return starts, sizes
