"""Training's index over cached latents: what a worker takes until its first batch, by the number of rows.

Rows are made up and lead to one and the same cached sample; what opens, chooses, draws and reads them is a stage's own.
Every figure is of fresh processes, in turn at both sizes, least of `RUNS`.
"""

import hashlib
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from benchmarks.scale_figures import Figure
from model.config import load_preset
from pipelines.training.curriculum.resolve import Stage, held_out_of, load_stage, sampler_for
from pipelines.training.data.held_out import smallest_of
from pipelines.training.latents.components import Identities
from pipelines.training.latents.index import (
    CACHE,
    CONSTANTS,
    CONSTANTS_PART,
    INDEX,
    NULL_TEXT,
    CacheRecord,
    IndexRecord,
    black_name,
    open_latents,
)
from pipelines.training.latents.rows.table import BLOCK, SCHEMA, Contents, TableFacts
from pipelines.training.latents.rows.write import summarised, write_blocks
from pipelines.training.latents.sample import Extension, LatentSample, Region, pack
from pipelines.training.latents.spec import Bucket, clip_shape
from pipelines.training.learners.transformer import StageMaker
from skyreels.commits import Commit, CommitLog, describe
from skyreels.shards import Member, open_shards
from skyreels.storage import Storage
from skyreels.training.trainable import Slot

FEW, MANY = 10**6, 10**8
RUNS = 3
PER_SHARD = 64
_BUCKET, _DIGITS = "video-64p-1x1-1s", 10


def measure(folder: Path) -> Iterator[Figure]:
    """Ratios of 10^8 rows to 10^6, and what a worker takes at 10^8. Takes 6 GB of disk meanwhile."""
    for rows in (FEW, MANY):
        write_cache(Storage(str(folder / str(rows))), rows)
    runs: dict[int, list[dict[str, float]]] = {FEW: [], MANY: []}
    for _ in range(RUNS):
        for rows, found in runs.items():
            command = [sys.executable, "-m", "benchmarks.scale_index", str(folder / str(rows))]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1]))
    few, many = ({name: min(run[name] for run in found) for name in found[0]} for found in runs.values())
    for name, words in (("index_s", "open, hold out, choose, draw"), ("batch_s", "open and first batch")):
        detail = f"{1000 * many[name]:.0f} ms against {1000 * few[name]:.0f}"
        yield Figure(f"{words}, 10^8 rows against 10^6", many[name] / few[name], most=1.5, detail=detail)
    yield Figure("a worker's index and first batch at 10^8 rows", many["batch_s"], most=2, unit="s")
    own = max(run["own_mb"] for run in runs[MANY])
    detail = f"{few['own_mb']:.0f} MB at 10^6; of the map {many['mapped_mb']:.0f} MB are touched"
    yield Figure("memory of its own for that, 10^8 rows", own, most=200, unit="MB", detail=detail)


def start(folder: str) -> dict[str, float]:
    """What a worker does before its first step, twice: with the index alone, and to a batch."""
    stage = _stage()
    before = _resident()
    began = time.perf_counter()
    index = open_latents(folder)
    sampler_for(stage, index, lambda task, bucket: 128, held_out_of(stage, index)).draw(0)
    drawn = time.perf_counter()
    StageMaker(stage, folder, (), "")().batch(Slot(0, 0))
    done = time.perf_counter()
    grown = {name: value - before[name] for name, value in _resident().items()}
    return {
        "index_s": drawn - began,
        "batch_s": done - drawn,
        "own_mb": grown["RssAnon"],
        "mapped_mb": grown["RssFile"],
    }


def write_cache(storage: Storage, rows: int) -> None:
    """A finished cache of one bucket, whose rows all lead to one sample."""
    stage = _stage()
    spec, preset = stage.latents, stage.preset
    sample = _sample(stage)
    with open_shards(storage, f"shards/{_BUCKET}/part") as shards:
        members = shards.add(sample.key, files := pack(sample, spec.dtype))
    CommitLog(storage).commit(Commit(part_id="part", files=tuple(shards.files)))
    width = preset.transformer.text_width
    black = (
        torch.zeros(preset.video.channels, 1, *sample.video.shape[2:]) if sample.video is not None else torch.empty(0)
    )
    with storage.staged(CONSTANTS) as path:
        path.write_bytes(save({NULL_TEXT: torch.zeros(2, width), black_name(_BUCKET, large=False): black}))
        constants = describe(CONSTANTS, path)
    CommitLog(storage).commit(Commit(part_id=CONSTANTS_PART, files=(constants,)))
    crc32 = zlib.crc32(files["safetensors"])
    tables = IndexRecord(tables={_BUCKET: _table(storage, rows, sample, members, crc32)}).model_dump_json().encode()
    storage.write(INDEX, tables)
    record = CacheRecord(
        spec=spec,
        identities=Identities(video_codec="v", audio_codec="a", encoder="e"),
        video=asdict(preset.video),
        audio=asdict(preset.audio),
        data="made up",
        command="python -m benchmarks.scale index",
        samples=rows,
        rejected=0,
        fingerprint=str(rows),
        index=hashlib.sha256(tables).hexdigest(),
    )
    storage.write(CACHE, record.model_dump_json().encode())


def _table(storage: Storage, rows: int, sample: LatentSample, members: dict[str, Member], crc32: int) -> TableFacts:
    """Rows with sound, rows without, and some without extensions, in turn."""
    full = Contents(
        kind="video",
        has_audio=True,
        texts=tuple(sorted(sample.texts)),
        references=(),
        extensions=len(sample.extensions),
        regions=len(sample.regions),
        refined=False,
    )
    kinds = (full, full.model_copy(update={"has_audio": False}), full.model_copy(update={"extensions": 0}))
    shards = -(-rows // PER_SHARD)
    names = pa.schema([("shard", pa.string())])
    described, tensors = members["json"], members["safetensors"]
    same = {
        "json_offset": described.offset,
        "json_size": described.size,
        "offset": tensors.offset,
        "size": tensors.size,
        "crc32": crc32,
    }
    named = {kind: f"index/{_BUCKET}.{kind}.arrow" for kind in ("rows", "shards", "blocks")}
    with storage.staged(named["rows"]) as path:
        write_blocks(path, SCHEMA, (_block(range(at, min(at + BLOCK, rows)), same) for at in range(0, rows, BLOCK)))
        found = [describe(named["rows"], path)]
        summary = summarised(path, len(kinds))
    with storage.staged(named["shards"]) as path:
        sizes = (min(BLOCK, shards - at) for at in range(0, shards, BLOCK))
        blocks = (pa.RecordBatch.from_pydict({"shard": [tensors.shard] * size}, names) for size in sizes)
        write_blocks(path, names, blocks)
        found.append(describe(named["shards"], path))
    with storage.staged(named["blocks"]) as path:
        write_blocks(path, *summary)
        found.append(describe(named["blocks"], path))
    counts = tuple(len(range(number, rows, len(kinds))) for number in range(len(kinds)))
    smallest = tuple(smallest_of(f"{number:0{_DIGITS}d}" for number in range(0, rows, rows // 1000)))
    return TableFacts(
        seconds=1.0, contents=kinds, counts=counts, smallest=smallest, rows=found[0], shards=found[1], blocks=found[2]
    )


def _block(numbers: range, same: dict[str, int]) -> pa.RecordBatch:
    """Rows whose keys are their numbers."""
    count, places = len(numbers), np.arange(numbers.start, numbers.stop)
    digits = (places[:, None] // 10 ** np.arange(_DIGITS - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)
    offsets = np.arange(count + 1, dtype=np.int32) * _DIGITS
    keys = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))
    columns = {"key": keys, "contents": places % 3, "shard": places // PER_SHARD}
    columns |= {name: np.full(count, value) for name, value in same.items()}
    arrays = [keys if f.name == "key" else pa.array(columns[f.name].astype(f.type.to_pandas_dtype())) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _sample(stage: Stage) -> LatentSample:
    """All that the stage's tasks ask for, of random numbers."""
    spec, preset = stage.latents, stage.preset
    shape = clip_shape(Bucket.parse(_BUCKET, spec), spec, preset.video, preset.audio)
    assert shape is not None
    assert shape.audio_latent_length is not None
    video = torch.randn(shape.video_latent_shape)
    frames, height, width = video.shape[1:]
    return LatentSample(
        key="sample",
        kind="video",
        bucket=_BUCKET,
        shape=shape,
        video=video,
        audio=torch.randn(preset.audio.channels, shape.audio_latent_length),
        texts={form: torch.randn(16, preset.transformer.text_width) for form in spec.captions},
        stills=torch.randn(shape.video_latent_shape),
        extensions=(Extension(video[:, :1], False), Extension(video[:, -1:], True)),
        regions=(Region(video, torch.ones(1, frames, height, width, dtype=torch.bool)),),
    )


def _stage() -> Stage:
    return load_stage("joint", load_preset("tiny"))


def _resident() -> dict[str, float]:
    """MB of this process that are its own, and that are of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: int(line.split()[1]) / 1024 for line in lines if (name := line.partition(":")[0]).startswith("Rss")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(start(sys.argv[1])))
