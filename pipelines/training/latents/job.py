"""What a cache job is given, and what that comes to: where the cache is, its parts, and which are still to do.

    <output>/latents/<spec name>-<identity>/

The identity names the spec, the networks and the data, so another codec makes another cache beside the old one.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from model.config import Preset
from model.shapes import AudioCodecSpec, VideoCodecSpec
from pipelines.training.clips import ClipDataset, open_dataset
from pipelines.training.latents.components import Identities, load_encoders
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.pairs import open_pairs
from pipelines.training.latents.plan import LatentPlan, Part, plan_latents
from pipelines.training.latents.spec import Bucket, LatentSpec
from pipelines.training.latents.write import Sources
from skyreels.cluster import LazyCluster
from skyreels.commits import CommitLog, digest
from skyreels.storage import Storage, normalise


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
    settings = spec.model_dump(mode="json", exclude={"name"})
    identity = digest({"spec": settings, "identities": identities.model_dump(), "data": data})
    return Storage(normalise(output)).location(f"latents/{spec.name}-{identity}")


def data_fingerprint(*datasets: ClipDataset) -> str:
    """Of the datasets and pairs that a cache is made of."""
    return digest({"fingerprints": [dataset.fingerprint for dataset in datasets]})


Networks = tuple[Identities, VideoCodecSpec, AudioCodecSpec]


def _networks(job: CacheJob) -> Networks:
    """Identities and specs; where workers have GPUs, asked of one: the driver's node may be too small for an MLLM."""
    if not job.gpus_per_worker:
        return _looked_at(job)
    with LazyCluster() as cluster:
        cluster.join()
        remote = ray.remote(num_cpus=job.cpus_per_worker, num_gpus=job.gpus_per_worker)(_looked_at)
        found: Networks = ray.get(remote.remote(job))
        return found


def _looked_at(job: CacheJob) -> Networks:
    encoders = load_encoders(job.components, job.preset, job.device)
    return encoders.identities, encoders.video.spec, encoders.audio.spec


def _nothing_fits(job: CacheJob, datasets: Sequence[ClipDataset], latents: LatentPlan) -> str:
    where = " and ".join(dataset.storage.root for dataset in datasets)
    clips = sum(len(dataset.clips) for dataset in datasets)
    if not latents.misfits:
        kinds = sorted({clip.kind for dataset in datasets for clip in dataset.clips})
        return f"{where} holds {clips} samples ({', '.join(kinds) or 'none'}), none of kinds={list(job.spec.kinds)}"
    reasons = Counter((misfit.reason, misfit.remedy) for misfit in latents.misfits.values())
    lines = [f"  {count} {reason}: {remedy}" for (reason, remedy), count in reasons.most_common()]
    return "\n".join([f"none of the {clips} samples of {where} fits the spec:", *lines])
