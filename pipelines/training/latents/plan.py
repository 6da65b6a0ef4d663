"""Which samples are made and which are committed together: decided before any work."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.shapes import VideoCodecSpec
from pipelines.training.data.clips import ClipDataset
from pipelines.training.latents.spec import Bucket, LatentSpec, Misfit, Placed, place
from skyreels.commits import stable_json
from skyreels.storage import Storage

_PLAN = "_plan.json"


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
