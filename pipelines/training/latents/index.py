"""A finished latent cache as a trainer opens it: one table of samples, and each of them by one ranged read.

<folder>/cache.json           what made it; written last, so a folder without it is not finished
<folder>/index.json, index/   one row per sample (`latents.rows`)
<folder>/constants.safetensors  black latents per bucket and the empty prompt
<folder>/rejects.parquet      what is not in, and why
<folder>/shards/<bucket>/     WebDataset shards: safetensors + json per sample
"""

import hashlib
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec
from pipelines.training.latents.components import Identities
from pipelines.training.latents.rows.joined import ALONE, Rows
from pipelines.training.latents.rows.table import IndexEntry, LatentError, Table, TableFacts
from pipelines.training.latents.sample import LatentSample, unpack
from pipelines.training.latents.spec import Bucket, LatentSpec, clip_shape, window_seconds
from skyreels.commits import Commit, CommitLog, verify
from skyreels.config import Config
from skyreels.shards import Member, read_member
from skyreels.storage import DamageError, MissingError, Storage, normalise

CACHE = "cache.json"
INDEX = "index.json"
CONSTANTS = "constants.safetensors"
CONSTANTS_PART = "constants"
"""The part that commits them."""
NULL_TEXT = "null_text"


class StaleLatents(LatentError):
    """A cache that other components, or other data, made."""


class CacheRecord(Config):
    """`cache.json`: what a cache is made of and with."""

    spec: LatentSpec
    identities: Identities
    video: dict[str, Any]
    audio: dict[str, Any]
    data: str
    command: str
    samples: int
    rejected: int
    fingerprint: str
    index: str
    """SHA-256 of `index.json`."""


class IndexRecord(Config):
    """`index.json`: the tables of a cache, by bucket."""

    tables: dict[str, TableFacts]


class LatentIndex:
    """An open cache. `buckets`: samples by bucket name, in order of key; `fingerprint` changes with any byte of it."""

    def __init__(self, storage: Storage, record: CacheRecord, tables: Mapping[str, Table]) -> None:
        self.storage = storage
        self.record = record
        self.tables = dict(tables)
        self.buckets = {name: Rows({ALONE: table}) for name, table in self.tables.items()}
        self.fingerprint = record.fingerprint
        self.video = VideoCodecSpec(**{**record.video, "stride": tuple(record.video["stride"])})
        self.audio = AudioCodecSpec(**record.audio)

    def read(self, entry: IndexEntry) -> LatentSample:
        """The sample, by one ranged read. Raises LatentError naming shard and key where it is missing or damaged."""
        where = f"{self.storage.location(entry.shard)}: {entry.key}"
        commit = f"_commits/{PurePosixPath(entry.shard).name.rpartition('-')[0]}.json"
        remedy = f"delete {self.storage.location(commit)} and run: {self.record.command}"
        span = Member(entry.shard, entry.json_offset, entry.offset + entry.size - entry.json_offset)
        try:
            data = read_member(self.storage, span)
        except MissingError as error:
            raise LatentError(f"{where}: the shard is missing; {remedy}") from error
        except DamageError as error:
            raise LatentError(f"{where}: the sample is damaged ({error}); {remedy}") from error
        tensors = data[entry.offset - entry.json_offset :]
        if zlib.crc32(tensors) != entry.crc32:
            raise LatentError(f"{where}: the sample is damaged (its CRC-32 is another); {remedy}")
        return unpack({"json": data[: entry.json_size], "safetensors": tensors})

    @property
    def made(self) -> dict[str, LatentSpec]:
        """By folder, how each cache that is read was made."""
        return {self.storage.root: self.record.spec}

    @cached_property
    def shapes(self) -> dict[str, Bucket]:
        """Size and length of each bucket, by name."""
        return {name: Bucket.parse(name, self.record.spec) for name in self.buckets}

    def clip_shape(self, bucket: str) -> ClipShape | None:
        """The extent of a bucket's samples, with sound if the cache holds sound; None for sound alone."""
        return clip_shape(self.shapes[bucket], self.record.spec, self.video, self.audio)

    def audio_latents(self, bucket: str) -> int:
        """L of the samples in a bucket that have sound."""
        seconds = window_seconds(self.shapes[bucket].seconds, self.record.spec, self.video)
        return self.audio.latent_length(round(seconds * self.audio.sample_rate))

    def black(self, bucket: str, *, large: bool = False) -> Tensor:
        """(C, 1, h, w): the latent of a black image of the bucket's size; `large`: of the refiner's."""
        return self._constants[black_name(bucket, large=large)]

    @cached_property
    def null_text(self) -> Tensor:
        """(S, D): the hidden states of the empty prompt."""
        return self._constants[NULL_TEXT]

    @cached_property
    def _constants(self) -> dict[str, Tensor]:
        log = CommitLog(self.storage)
        try:
            (file,) = log.read(CONSTANTS_PART).files
            return {name: tensor.float() for name, tensor in load(log.read_file(file)).items()}
        except (DamageError, FileNotFoundError, SafetensorError) as error:
            remedy = f"delete {self.storage.location(CONSTANTS)} and run: {self.record.command}"
            raise LatentError(f"{self.storage.location(CONSTANTS)} is damaged: {error}; {remedy}") from error


REMAKE = "delete the cache folder and run jobs/cache.py again"
REWRITE = "run jobs/cache.py again, which writes it anew"


def open_latents(
    location: str,
    *,
    video_codec: str | None = None,
    audio_codec: str | None = None,
    encoder: str | None = None,
    data: str | None = None,
) -> LatentIndex:
    """Open a finished cache folder, local or s3://.

    The identities that are given, of codecs, encoder and data (`data_fingerprint`), must be those that made the cache:
    StaleLatents says which differ and how to make it anew. LatentError where the folder is no finished cache.
    """
    storage = Storage(normalise(location))
    if not storage.exists(CACHE):
        raise LatentError(
            f"{storage.location(CACHE)} does not exist: the cache is not finished, or this is no cache folder. "
            "Run jobs/cache.py; it goes on from what is committed"
        )
    try:
        record = CacheRecord.model_validate_json(storage.read(CACHE))
    except ValidationError as error:
        raise LatentError(
            f"{storage.location(CACHE)} is not of this version ({error.error_count()} problems): {REWRITE}"
        ) from error
    made_by = {**record.identities.model_dump(), "data": record.data}
    wanted = {"video_codec": video_codec, "audio_codec": audio_codec, "encoder": encoder, "data": data}
    stale = [
        f"{name.replace('_', ' ')} {made_by[name]}, not {value}"
        for name, value in wanted.items()
        if value is not None and value != made_by[name]
    ]
    if stale:
        raise StaleLatents(
            f"{storage.root} was made with {'; with '.join(stale)}. Make it anew with the components in use: "
            f"{record.command}"
        )
    found = index_record(storage, record).tables
    tables = {name: Table(storage, name, facts, record.fingerprint, REWRITE) for name, facts in found.items()}
    return LatentIndex(storage, record, tables)


def black_name(bucket: str, *, large: bool) -> str:
    """Of a bucket's black latent among the constants."""
    return f"black/{bucket}/large" if large else f"black/{bucket}"


def decode_entry(values: Mapping[str, Any]) -> IndexEntry:
    """From the facts of a commit."""
    lists = {name: tuple(values[name]) for name in ("texts", "references")}
    return IndexEntry(**{**values, **lists})


def index_record(storage: Storage, record: CacheRecord) -> IndexRecord:
    """The tables of a finished cache. Raises LatentError where `index.json` is not as it was written."""
    where = storage.location(INDEX)
    try:
        data = storage.read(INDEX)
    except FileNotFoundError as error:
        raise LatentError(f"{where} is missing: {REWRITE}") from error
    if hashlib.sha256(data).hexdigest() != record.index:
        raise LatentError(f"{where} is damaged (it differs from its checksum): {REWRITE}")
    return IndexRecord.model_validate_json(data)


def index_problems(index: LatentIndex) -> list[str]:
    """What of an open cache's tables is not as it was written, in words; every byte is read."""
    files = [file for table in index.tables.values() for file in table.facts.files]
    return verify(index.storage, Commit(part_id=INDEX, files=tuple(files)))
