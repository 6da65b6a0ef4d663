"""Parts of a cache, each from clips to a committed shard; and the constants that all samples share."""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import save

from model.conditioning import BLACK
from pipelines.training.latents.components import Encoders
from pipelines.training.latents.encode import encode_sample
from pipelines.training.latents.index import CONSTANTS, CONSTANTS_PART, NULL_TEXT, black_name
from pipelines.training.latents.job import Part, Sources
from pipelines.training.latents.rows.table import IndexEntry
from pipelines.training.latents.sample import LatentSample, pack
from pipelines.training.latents.spec import Bucket, LatentSpec
from skyreels.commits import Commit, CommitLog, describe
from skyreels.media.errors import MediaError
from skyreels.shards import Member, open_shards
from skyreels.storage import Storage


@dataclass(frozen=True)
class PartResult:
    """What a part came to, for progress; the truth is in its commit."""

    part_id: str
    samples: int
    rejected: int
    cpu_s: float


def write_part(part: Part, sources: Sources, cache: Storage, spec: LatentSpec, encoders: Encoders) -> PartResult:
    """Encode the samples of a part, write their shard, then the commit. A rerun writes the same bytes.

    A sample whose files cannot be read is left out, and the commit says why.
    """
    started = time.process_time()
    entries: list[dict[str, Any]] = []
    rejected: dict[str, dict[str, str]] = {}
    with open_shards(cache, f"shards/{part.bucket.name}/{part.part_id}") as shards:
        for placed in part.samples:
            try:
                sample = encode_sample(placed, sources[placed.clip.kind], spec, encoders)
            except MediaError as error:
                rejected[placed.key] = {"reason": error.reason, "remedy": error.remedy, "detail": error.detail}
                continue
            files = pack(sample, spec.dtype)
            members = shards.add(placed.key, files)
            crc32 = zlib.crc32(files["safetensors"])
            entries.append(asdict(_entry(sample, placed.bucket.seconds, members, crc32)))
    facts = {"bucket": part.bucket.name, "entries": entries, "rejected": rejected}
    CommitLog(cache).commit(Commit(part_id=part.part_id, files=tuple(shards.files), facts=facts))
    return PartResult(part.part_id, len(entries), len(rejected), time.process_time() - started)


def write_constants(buckets: Sequence[Bucket], cache: Storage, spec: LatentSpec, encoders: Encoders) -> None:
    """Latents of a black image in the size of each bucket, and the hidden states of the empty prompt."""
    constants = {NULL_TEXT: encoders.text_states("")}
    factors = {False: 1} | ({True: spec.refined.space_factor} if spec.refined else {})
    for bucket in (bucket for bucket in buckets if bucket.height):
        for large, factor in factors.items():
            black = torch.full((1, 3, 1, bucket.height * factor, bucket.width * factor), BLACK)
            constants[black_name(bucket.name, large=large)] = encoders.video_latents(black)[0]
    with cache.staged(CONSTANTS) as path:
        path.write_bytes(save({name: tensor.contiguous() for name, tensor in constants.items()}))
        file = describe(CONSTANTS, path)
    CommitLog(cache).commit(Commit(part_id=CONSTANTS_PART, files=(file,)))


def _entry(sample: LatentSample, seconds: float, members: Mapping[str, Member], crc32: int) -> IndexEntry:
    described, tensors = members["json"], members["safetensors"]
    return IndexEntry(
        key=sample.key,
        kind=sample.kind,
        bucket=sample.bucket,
        has_audio=sample.audio is not None,
        seconds=seconds,
        texts=tuple(sorted(sample.texts)),
        references=tuple(sorted(sample.references)),
        extensions=len(sample.extensions),
        regions=len(sample.regions),
        refined=sample.refined is not None,
        shard=tensors.shard,
        json_offset=described.offset,
        json_size=described.size,
        offset=tensors.offset,
        size=tensors.size,
        crc32=crc32,
    )
