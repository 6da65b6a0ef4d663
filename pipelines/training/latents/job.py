"""What a cache job is given, and what that comes to: where the cache is, its parts, and which are still to do.

    <output>/latents/<spec name>-<identity>/

The identity names the spec, the networks and the data, so another codec makes another cache beside the old one.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model.config import Preset
from model.shapes import AudioCodecSpec, VideoCodecSpec
from pipelines.dataset.reader import ClipDataset, ClipKind, open_dataset
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.latents.components import Identities, load_encoders
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.pairs import open_pairs
from pipelines.training.latents.spec import Bucket, LatentSpec, Misfit, Placed, place
from skyreels.cluster import LazyCluster
from skyreels.commits import CommitLog, digest, stable_json
from skyreels.storage import Storage, normalise

Sources = Mapping[ClipKind, Storage]
"""Where the files of the clips of each kind lie."""


class NothingFits(LatentError):
    """Data of which no sample is of a kind and size that the spec asks for."""


@dataclass(frozen=True)
class CacheJob:
    """What is cached, where to, and with what.

    `components` is a model's folder; None: networks as the preset says. `workers` 0 works in this process; None: as
    many as the cluster has room for. More than `max_unreadable` of the samples unreadable end the job.
    """

    output: str
    spec: LatentSpec
    preset: Preset
    dataset: str | None = None
    pairs: str | None = None
    components: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    max_unreadable: float = 0.05

    @classmethod
    def of_stage(
        cls, stage: Stage, output: str, dataset: str | None, components: str, pairs: str | None = None
    ) -> "CacheJob":
        """What a stage reads; made in this process where the stage trains in it."""
        return cls(
            output,
            stage.latents,
            stage.preset,
            dataset,
            pairs,
            components,
            workers=None if stage.recipe.workers else 0,
            gpus_per_worker=stage.recipe.gpus_per_worker,
        )

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def command(self) -> str:
        """The command line that does this job."""
        given = {
            "--dataset": self.dataset,
            "--pairs": self.pairs,
            "--output": self.output,
            "--preset": self.preset.name,
        }
        given["--components"] = self.components
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        settings = self.spec.model_dump(mode="json", exclude_defaults=True)
        words += [f"{name}={value}".replace("'", "") for name, value in settings.items()]
        return shlex.join(["python", "jobs/cache.py", *words])


@dataclass(frozen=True)
class Part:
    """Samples of one bucket that one task encodes and commits."""

    part_id: str
    samples: tuple[Placed, ...]

    @property
    def bucket(self) -> Bucket:
        return self.samples[0].bucket


@dataclass(frozen=True)
class LatentPlan:
    """All parts of a cache, and per clip that is in no bucket, why."""

    parts: tuple[Part, ...]
    misfits: dict[str, Misfit]

    @property
    def samples(self) -> int:
        return sum(len(part.samples) for part in self.parts)


@dataclass(frozen=True)
class CachePlan:
    """A job looked at closely: where its cache is, what is in it, and which parts are still to do."""

    job: CacheJob
    location: str
    identities: Identities
    video: VideoCodecSpec
    audio: AudioCodecSpec
    data: str
    sources: Sources
    latents: LatentPlan
    remaining: tuple[Part, ...]

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets that samples fall into, in order of name."""
        found = {part.bucket.name: part.bucket for part in self.latents.parts}
        return tuple(found[name] for name in sorted(found))


def plan_cache(job: CacheJob) -> CachePlan:
    """What `cache` would do. Writes nothing. Raises NothingFits where nothing fits the spec."""
    if job.dataset is None and job.pairs is None:
        raise LatentError("nothing to cache: give --dataset, --pairs or both")
    datasets = [open_dataset(job.dataset)] if job.dataset is not None else []
    pairs = [open_pairs(job.pairs)] if job.pairs is not None else []
    identities, video, audio = _networks(job)
    latents = plan_latents([*datasets, *pairs], job.spec, video)
    if not latents.parts:
        raise NothingFits(_nothing_fits(job, [*datasets, *pairs], latents))
    data = data_fingerprint(*datasets, *pairs)
    location = cache_location(job.output, job.spec, identities, data)
    done = CommitLog(Storage(location)).intact()
    sources: Sources = {
        **{kind: dataset.storage for dataset in datasets for kind in ("image", "video", "audio")},
        **{kind: dataset.storage for dataset in pairs for kind in ("pair",)},
    }
    remaining = tuple(part for part in latents.parts if part.part_id not in done)
    return CachePlan(job, location, identities, video, audio, data, sources, latents, remaining)


def cache_location(output: str, spec: LatentSpec, identities: Identities, data: str) -> str:
    """The folder of a cache below an output folder."""
    identity = digest({"spec": spec.identity, "identities": identities.model_dump(), "data": data})
    return Storage(normalise(output)).location(f"latents/{spec.name}-{identity}")


def data_fingerprint(*datasets: ClipDataset) -> str:
    """Of the datasets and pairs that a cache is made of."""
    return digest({"fingerprints": [dataset.fingerprint for dataset in datasets]})


Networks = tuple[Identities, VideoCodecSpec, AudioCodecSpec]


def _networks(job: CacheJob) -> Networks:
    """Identities and specs; where workers have GPUs, asked of one: the driver's node may be too small for an MLLM."""
    if not job.gpus_per_worker:
        return _looked_at(job)
    import ray

    with LazyCluster() as cluster:
        cluster.join()
        remote = ray.remote(num_cpus=job.cpus_per_worker, num_gpus=job.gpus_per_worker)(_looked_at)
        found: Networks = ray.get(remote.remote(job))
        return found


def _looked_at(job: CacheJob) -> Networks:
    encoders = load_encoders(job.components, job.preset, job.device, sound=job.spec.audio)
    return encoders.identities, encoders.video.spec, encoders.audio.spec


def _nothing_fits(job: CacheJob, datasets: Sequence[ClipDataset], latents: LatentPlan) -> str:
    where = " and ".join(dataset.storage.root for dataset in datasets)
    clips = sum(len(dataset.clips) for dataset in datasets)
    if not clips:
        return (
            f"{where} holds no samples: its rejects.parquet says why none was kept; loosen the recipe and run "
            "`jobs/curate.py refilter`, or give another dataset"
        )
    if not latents.misfits:
        kinds = sorted({clip.kind for dataset in datasets for clip in dataset.clips})
        return f"{where} holds {clips} samples ({', '.join(kinds)}), none of kinds={list(job.spec.kinds)}"
    reasons = Counter((misfit.reason, misfit.remedy) for misfit in latents.misfits.values())
    lines = [f"  {count} {reason}: {remedy}" for (reason, remedy), count in reasons.most_common()]
    return "\n".join([f"none of the {clips} samples of {where} fits the spec:", *lines])


_PLAN = "_plan.json"


def plan_latents(datasets: Iterable[ClipDataset], spec: LatentSpec, video: VideoCodecSpec) -> LatentPlan:
    """Place every clip of a kind that the spec asks for; parts in order of bucket and key."""
    by_bucket: dict[str, list[Placed]] = {}
    misfits: dict[str, Misfit] = {}
    clips = {clip.key: clip for dataset in datasets for clip in dataset.clips}
    for _, clip in sorted(clips.items()):
        placed = place(clip, spec, video)
        if isinstance(placed, Misfit):
            misfits[clip.key] = placed
            continue
        for sample in placed:
            by_bucket.setdefault(sample.bucket.name, []).append(sample)
    parts = [
        _part(samples[start : start + spec.part_samples])
        for _, samples in sorted(by_bucket.items())
        for start in range(0, len(samples), spec.part_samples)
    ]
    return LatentPlan(tuple(parts), misfits)


def store_plan(plan: LatentPlan, cache: Storage) -> None:
    """Write down which keys each part holds. Part ids follow from them, so a resume plans the very same parts."""
    described = stable_json({part.part_id: [sample.key for sample in part.samples] for part in plan.parts})
    if not (cache.exists(_PLAN) and cache.read(_PLAN) == described):
        cache.write(_PLAN, described)


def _part(samples: Sequence[Placed]) -> Part:
    named = [samples[0].bucket.name, [[sample.key, sample.start_s] for sample in samples]]
    return Part(hashlib.blake2b(stable_json(named), digest_size=10).hexdigest(), tuple(samples))
