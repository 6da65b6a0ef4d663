"""What a prepared call will take, from its shapes: operations by stage, and memory at the height of each.

Operations are counted by `model.costs.flops`; how long one takes is learned where the call is served. Memory is that of
weights, of what a step holds for all tokens of all passes, and of the clip's pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from model.checkpoint import stored_config
from model.conditioning import ImageReference, Reference, VideoReference
from model.config import TransformerConfig
from model.costs.flops import Workload, forward_flops
from model.costs.memory import SamplingSetup, sampling_memory
from model.folder import ENCODER, REFINER, TRANSFORMER, ModelIndex
from model.generation.prepared import GeneratorSpec, Prepared
from model.network.keyframes import keyframe_indices
from model.network.parallel import check_ranks
from model.sampling.guidance import guidance_passes
from model.shapes import ClipShape
from pipelines.generation.windows import Windows

_PIXEL_BYTES = 3 * (4 + 4 + 1)  # decoded, scaled and as bytes
_PIXEL_WORK = 1000.0  # operations of a codec per value: the unit is learned anyway
_TOKENS_PER_WORD = 1.5


@dataclass(frozen=True)
class Demand:
    """`work` in operations by stage; `memory` in bytes of the largest stage, weights of all parts included."""

    work: Mapping[str, float]
    memory: float


@dataclass(frozen=True)
class DemandModel:
    """What predicting needs of a model's folder: configurations, and bytes of weights."""

    spec: GeneratorSpec
    base: TransformerConfig
    refiner: TransformerConfig | None
    weights: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    """By stage, how many devices share a clip, where it is more than one. `Demand.memory` is of each of them."""

    def __post_init__(self) -> None:
        for stage, network in (("base", self.base), ("refine", self.refiner)):
            if network is not None:
                check_ranks(network.heads, self.ranks.get(stage, 1))

    @classmethod
    def of(
        cls, folder: Path, spec: GeneratorSpec, ranks: Mapping[str, int] | None = None, streamed: bool = False
    ) -> "DemandModel":
        """Reads no weights, only how large they are; where layers are `streamed`, one of each network counts.

        Raises ValueError where heads cannot be dealt out to `ranks`.
        """
        index = ModelIndex.read(folder)
        networks = {
            name: stored_config(TransformerConfig, index.part(folder, name))
            for name in (TRANSFORMER, REFINER)
            if name in (TRANSFORMER, *index.parts)
        }
        weights = 0.0
        for name in {*index.parts, TRANSFORMER, ENCODER}:
            size = sum(file.stat().st_size for file in Path(index.part(folder, name)).rglob("*.safetensors"))
            weights += size / networks[name].layers if streamed and name in networks else size
        return cls(spec, networks[TRANSFORMER], networks.get(REFINER), weights, ranks or {})

    def demand(self, prepared: Prepared) -> Demand:
        """Of all stages."""
        passes = self._passes(prepared)
        base = self._workload(prepared)
        work = {"base": float(prepared.settings.steps * passes * forward_flops(self.base, base))}
        held = [_held(self.base, base, passes, self.ranks.get("base", 1))]
        clip = prepared.clip
        if prepared.refined is not None and self.refiner is not None:
            clip = prepared.refined
            settings = self.spec.config.refiner
            refined = replace(
                base, grid=self._grid(clip), keyframes=0, video_references=0, audio=0, audio_references=0,
                sparsity=settings.sparsity,
            )  # fmt: skip
            work["refine"] = float(settings.steps * forward_flops(self.refiner, refined))
            held.append(_held(self.refiner, refined, 1, self.ranks.get("refine", 1)))
        pixels = clip.frames * clip.height * clip.width
        work["decode"] = _PIXEL_WORK * (3 * pixels + clip.audio_samples)
        return Demand(work, self.weights + max(*held, float(_PIXEL_BYTES * pixels)))

    def of_windows(self, windows: Windows) -> Demand:
        """Of a clip in windows: the work of all, and the memory of one beside all frames as bytes, twice over."""
        whole = windows.shown
        each = [self.demand(windows.sized(number)) for number in windows.working]
        stages = {stage: None for one in each for stage in one.work}
        work = {stage: sum(one.work.get(stage, 0.0) for one in each) for stage in stages}
        frames = 2.0 * 3 * whole.frames * whole.height * whole.width
        return Demand(work, max(one.memory for one in each) + frames)

    def longest(self, prepared: Prepared, memory: float) -> float | None:
        """Seconds of the longest clip of this size that fits into `memory` bytes; None where none does."""
        clip = prepared.clip
        for latents in range(clip.latent_frames - 1, 0, -1):
            shorter = _of_length(prepared, replace(clip, frames=clip.video.frames_of(latents)))
            if self.demand(shorter).memory <= memory:
                return shorter.clip.seconds
        return None

    def _passes(self, prepared: Prepared) -> int:
        streams = frozenset({"video", "audio"} if prepared.clip.audio is not None else {"video"})
        tags = [reference.tag for reference in prepared.references]
        return len(guidance_passes(prepared.scales, streams, references=tags, joint=self.base.joint))

    def _grid(self, clip: ClipShape) -> tuple[int, int, int]:
        _, frames, height, width = clip.video_latent_shape
        return frames, height // self.base.patch[1], width // self.base.patch[2]

    def _workload(self, prepared: Prepared) -> Workload:
        clip = prepared.clip
        grid = self._grid(clip)
        area = grid[1] * grid[2]
        frames = sum(_latents_of(reference, clip) for reference in prepared.references)
        keyframes = 0
        if prepared.refined is not None and prepared.settings.keyframes:
            large = self._grid(prepared.large)
            keyframes = (
                large[1]
                * large[2]
                * len(keyframe_indices(clip.latent_frames, self.spec.config.refiner.keyframe_spacing))
            )
        return Workload(
            text=round(_TOKENS_PER_WORD * len(prepared.prompt.split())) + 1,
            grid=grid,
            keyframes=keyframes,
            video_references=frames * area,
            audio=clip.audio_latent_length,
        )


def _latents_of(reference: Reference, clip: ClipShape) -> int:
    """Latent frames that a reference takes: one for each picture."""
    if isinstance(reference, VideoReference):
        return 1 + int(reference.frames.shape[1]) // clip.video.stride[0]
    return len(reference.images) if isinstance(reference, ImageReference) else 0


def _held(config: TransformerConfig, work: Workload, passes: int, ranks: int) -> float:
    """What a step of all passes together holds beside weights, on each of the `ranks` that share it."""
    memory = sampling_memory(config, work, SamplingSetup(batch=passes, ranks=ranks))
    return memory.activations + memory.latents


def _of_length(prepared: Prepared, clip: ClipShape) -> Prepared:
    refined = prepared.refined
    if refined is not None:
        share = clip.frames / prepared.clip.frames
        refined = replace(refined, frames=refined.video.nearest_frames(share * refined.frames))
    return replace(prepared, clip=clip, refined=refined)
