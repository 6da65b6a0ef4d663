"""Selection, manifest, rejects and report over made-up pictures: memory and time by their number.

Each size is a process of its own, which does every step of every slice itself: its memory is the driver's and that of
one task together, its time the CPU's. Rows are as the pool and the layer of embeddings have them; a tenth each repeats
bytes, frames or meaning of another, and two thirds break a rule. All pictures lie in one shard, which is read for those
that are kept.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.scale_figures import Figure
from pipelines.curation.annotators import embedding_layer
from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import remaining_parts, store_plan
from pipelines.curation.pool.read import Pool
from pipelines.curation.recipe import ExtractConfig, PartsConfig, Recipe
from pipelines.curation.records import Kind, Source
from pipelines.curation.slices.dataset import finish_slices
from pipelines.curation.summary import Dataset, Work
from pipelines.dataset.tables import encode, encode_members
from skyreels.cluster import LazyCluster
from skyreels.commits import Commit, CommitLog, describe
from skyreels.shards import Member, open_shards
from skyreels.storage import Storage

FEWEST = 10**5
PLANNED = 10**6
PER_SLICE = 1 << 15
_WIDTH = 16  # of an embedding
_RECIPE = {
    "filters": {"sharp": {"score": "visual.sharpness", "min": 0.7}},
    "dedup": {"semantic_cosine": 0.98},
    "balance": {"enabled": True, "concepts": 16},
    "captions": {"backend": "none"},
}


def measure(folder: Path, most: int = 10**6) -> Iterator[Figure]:
    """Growth from `FEWEST` rows to the `most`. Takes about 2 kB of disk for each row meanwhile."""
    found = {}
    for rows in (FEWEST, most):
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale_rows",
            "--rows",
            str(rows),
            "--folder",
            str(folder / str(rows)),
        ]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[rows] = json.loads(out.splitlines()[-1])
    yield from _planning(folder)
    few, many = found[FEWEST], found[most]
    span = f"from {FEWEST:,} to {most:,} rows"
    grown = many["peak_mb"] - few["peak_mb"]
    yield Figure("memory of driver and one task, growth", grown, most=300.0, unit="MB",
                 detail=f"{span}: {few['peak_mb']:.0f} and {many['peak_mb']:.0f} MB")  # fmt: skip
    each = [found[rows]["cpu_s"] / rows * 1e6 for rows in (FEWEST, most)]
    yield Figure("CPU time per row, growth", each[1] / each[0], most=1.5,
                 detail=f"{span}: {each[0]:.0f} and {each[1]:.0f} us; {many['kept']:,} kept")  # fmt: skip
    yield Figure("work files per row", many["work_bytes"] / most, unit="B",
                 detail="what tasks hand each other, written once and read once")  # fmt: skip


def _planning(folder: Path) -> Iterator[Figure]:
    """Names that stream into a stored plan, all of them committed, and the same names once more."""
    found = []
    for names in (PLANNED // 10, PLANNED):
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale_rows",
            "--plan",
            str(names),
            "--folder",
            str(folder / f"p{names}"),
        ]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(out.splitlines()[-1]))
    few, many = found
    yield Figure("memory of planning, growth", many["peak_mb"] - few["peak_mb"], most=300.0, unit="MB",
                 detail=f"from {PLANNED // 10:,} to {PLANNED:,} names")  # fmt: skip
    yield Figure("resume with nothing to do", many["resume_cpu_s"], most=60.0, unit="s",
                 detail=f"CPU: {PLANNED:,} names that are planned and committed in parts of 1,000")  # fmt: skip


def _plan(names: int, folder: Path) -> dict[str, float]:
    pool = Storage(str(folder))
    extract = ExtractConfig(parts=PartsConfig(max_sources=1000, max_bytes=1 << 40))

    def batches() -> Iterator[list[Source]]:
        for first in range(0, names, 1 << 16):
            last = min(names, first + (1 << 16))
            yield [Source.at(f"s3://bucket/pictures/{i:012d}.jpg", Kind.IMAGE, 100_000) for i in range(first, last)]

    for batch in batches():
        store_plan(pool, batch, extract)
    for parts in remaining_parts(pool, extract):
        for part in parts:
            CommitLog(pool).commit(Commit(part_id=part.part_id, files=()))
    begun = time.process_time()
    for batch in batches():
        store_plan(pool, batch, extract)
    left = sum(len(parts) for parts in remaining_parts(pool, extract))
    assert not left, f"{left} parts are to be done again"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": peak, "resume_cpu_s": time.process_time() - begun}


@dataclass(frozen=True)
class MadeUp(Sequence[Pool]):
    """Slices of a pool that does not exist; the same whenever they are asked for."""

    rows: int
    member: str = ""  # where its picture lies
    per_slice: int = PER_SLICE

    def __len__(self) -> int:
        return max(2, -(-self.rows // self.per_slice))

    def __getitem__(self, index: int) -> Pool:  # type: ignore[override]
        made = self.made(index)
        count = len(made["source_id"])
        zeros, ones = np.zeros(count), np.ones(count, np.int32)
        clips = {
            "key": [f"{source_id}_00000" for source_id in made["source_id"]], "source_id": made["source_id"],
            "part_id": ["part"] * count, "kind": ["image"] * count, "start_s": zeros, "end_s": zeros,
            "width": 640 * ones, "height": 480 * ones, "fps": zeros, "frames": ones,
            "has_audio": np.zeros(count, bool), "hashes": made["hash"][:, None].tolist(), "parts": ["[]"] * count,
            "members": [self.member] * count, "visual.sharpness": made["sharpness"], "made_of": made["source_id"],
        }  # fmt: skip
        given = {name: pa.array(values, _type(name)) for name, values in clips.items()}
        empty = tables.clip_table([])
        given["transcript"] = pa.nulls(count, pa.string())
        missing = {
            name: pa.nulls(count, empty.schema.field(name).type) for name in empty.column_names if name not in given
        }
        return Pool(pa.table(given | missing), self._sources(made, count))

    def made(self, index: int) -> dict[str, np.ndarray | list[str]]:
        """Columns of a slice."""
        count = self.rows * (index + 1) // len(self) - self.rows * index // len(self)
        random = np.random.default_rng(index)
        span = 2**64 // len(self)
        ids = np.sort(random.choice(span // 2**24, count, replace=False)).astype(object) * 2**24 + index * span + 2**33
        like = random.integers(0, self.rows, count, dtype=np.uint64)
        own = (np.arange(count, dtype=np.uint64) + np.uint64(index << 40)) + np.uint64(1 << 60)
        which = random.random(count)
        flipped = np.uint64(1) << random.integers(0, 64, count, dtype=np.uint64)
        return {
            "source_id": [f"{number:016x}" for number in ids],
            "sha256": [f"{n:064x}" for n in np.where(which < 0.1, like, own)],
            "hash": np.where((which > 0.1) & (which < 0.2), _hash(like) ^ flipped, _hash(own)),
            "embedding": _vectors(np.where((which > 0.2) & (which < 0.3), like, own)),
            "sharpness": random.random(count),
        }

    @staticmethod
    def _sources(made: dict, count: int) -> pa.Table:
        ids = made["source_id"]
        columns = {
            "source_id": ids, "uri": [f"s3://bucket/pictures/{i}.jpg" for i in ids], "name": [f"{i}.jpg" for i in ids],
            "part_id": ["part"] * count, "kind": ["image"] * count, "size": [100_000] * count, "status": ["ok"] * count,
            "attempts": [1] * count, "sha256": made["sha256"], "seconds": [0.0] * count, "clips": [1] * count,
            "cuts_s": [[]] * count, "meta": ["{}"] * count, "probe": ["{}"] * count, "uncovered": ["[]"] * count,
            "transitions": ["[]"] * count, "timings": ['{"decode": 0.01}'] * count,
        }  # fmt: skip
        schema = tables.source_table([]).schema
        return pa.table([pa.array(columns.get(f.name, [None] * count), f.type) for f in schema], schema=schema)


def _type(name: str) -> pa.DataType | None:
    schema = tables.clip_table([]).schema
    return schema.field(name).type if name in schema.names else None


def _hash(values: np.ndarray) -> np.ndarray:
    z = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return z ^ (z >> np.uint64(31))


def _vectors(values: np.ndarray) -> np.ndarray:
    """(N, D) unit vectors that depend on each value alone."""
    columns = [_hash(values ^ np.uint64(place << 50)).astype(np.float64) / 2**63 - 1 for place in range(_WIDTH)]
    vectors = np.stack(columns, 1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_layer(slices: MadeUp, root: Storage, recipe: Recipe) -> None:
    """The embeddings of every clip, a part for each slice."""
    store = embedding_layer(recipe.embedding, root).storage(root)
    for index in range(len(slices)):
        made = slices.made(index)
        keys = [f"{source_id}_00000" for source_id in made["source_id"]]
        rows = {"key": keys, "error": pa.nulls(len(keys), pa.string()), "embedding": list(made["embedding"]),
                "made_of": made["source_id"]}  # fmt: skip
        with store.staged(f"parts/{index:06d}.parquet") as path:
            path.write_bytes(encode(pa.table(rows)))
            file = describe(f"parts/{index:06d}.parquet", path)
        CommitLog(store).commit(Commit(part_id=f"{index:06d}", files=(file,)))


def prepared(root: Storage, made: MadeUp) -> tuple[MadeUp, Recipe]:
    """The slices with their picture in a shard of the pool and their embeddings in a layer."""
    buffer = BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "JPEG")
    with open_shards(root.sub("pool"), "shards/part") as shards:
        shards.add("0_00000", {"jpg": buffer.getvalue()})
    member: dict[str, Member] = shards.members["0_00000"]
    slices, recipe = replace(made, member=encode_members(member)), Recipe.model_validate(_RECIPE)
    write_layer(slices, root, recipe)
    return slices, recipe


def choose(root: Storage, slices: MadeUp, recipe: Recipe, cluster: LazyCluster | None) -> Dataset:
    """Every step from rows to the report."""
    summary = finish_slices(root, slices, recipe, frozenset(), cluster, time.monotonic(), Work())
    lost = f"{summary.clips} of {slices.rows} clips came out: some were lost, or are there twice"
    assert summary.clips == slices.rows, lost
    return summary


def _child(rows: int, folder: Path) -> dict[str, float]:
    root = Storage(str(folder))
    slices, recipe = prepared(root, MadeUp(rows))
    written = sum(entry.size for entry in root.files())
    begun = time.process_time()
    summary = choose(root, slices, recipe, None)
    spent = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    io = Path("/proc/self/io").read_text()
    total = int(io.split("wchar: ")[1].split()[0])
    return {"peak_mb": peak, "cpu_s": spent, "kept": summary.kept, "work_bytes": total - written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--rows", type=int, help="one size, in this process")
    what.add_argument("--plan", type=int, help="so many names into a plan, in this process")
    parser.add_argument("--folder", type=Path, required=True, help="where its files go")
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(_plan(options.plan, options.folder)))
        return
    print(json.dumps(_child(options.rows, options.folder)))


if __name__ == "__main__":
    main()
