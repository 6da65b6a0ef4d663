"""The guided velocity of one sampling run: all guidance passes as rows of one batch, text projected once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from model.guidance import GuidanceScales, Pass, Streams, guidance_passes, guide
from model.inputs import AUDIO, VIDEO, JointInputs, JointOutputs
from model.keyframes import KeyframeInput
from model.mmdit import MMDiT, predict

TextPair = tuple[Tensor, Tensor]
"""Hidden states (B, S, D) of the MLLM and their mask (B, S)."""


@dataclass(frozen=True)
class Scene:
    """What stays the same at every step of one run: B samples, of the same shapes.

    `given` holds clean latents of streams that are conditions rather than generated (video-to-audio and back).
    """

    prompt: TextPair
    negative: TextPair
    generates: frozenset[str]
    condition: VideoCondition | None = None
    given: Streams | None = None
    video_references: Sequence[Tensor] = ()
    audio_references: Sequence[Tensor] = ()
    audio_time_scale: float = 0.0
    keyframe_condition: VideoCondition | None = None
    keyframe_indices: tuple[int, ...] = ()
    sparsity: float = 0.0


class GuidedVelocity:
    """Callable (latents, t) -> velocities, for `sampler.sample`."""

    def __init__(self, model: MMDiT, scene: Scene, scales: GuidanceScales) -> None:
        self.model, self.scene, self.scales = model, scene, scales
        streams = scene.generates | set(scene.given or {})
        self.passes = guidance_passes(
            scales,
            scene.generates,
            has_references=bool(scene.video_references or scene.audio_references),
            joint={"video", "audio"} <= streams,
        )
        batch = scene.prompt[0].shape[0]
        rows = [scene.negative if p is Pass.NO_TEXT else scene.prompt for p in self.passes]
        self.text, self.mask = stack_text(rows)
        device = self.text.device
        self.cross_modal = self._rows(Pass.APART, batch, device)
        self.reference_rows = self._rows(Pass.NO_REFERENCES, batch, device)
        with torch.no_grad():
            self.text_cache = model.cache_text(self.text, self.mask)

    def __call__(self, latents: Streams, t: float) -> Streams:
        predicted = predict(self.model, self.inputs(latents, t), self.text_cache)
        by_stream = {name: velocity.chunk(len(self.passes)) for name, velocity in _streams(predicted, latents).items()}
        velocities = {p: {name: chunks[row] for name, chunks in by_stream.items()} for row, p in enumerate(self.passes)}
        return guide(velocities, self.scales)

    def inputs(self, latents: Streams, t: float) -> JointInputs:
        """The rows of one step: the batch once per pass."""
        scene = self.scene
        known = {**(scene.given or {}), **latents}
        timesteps = torch.ones(self.text.shape[0], 2, device=self.text.device)
        timesteps[:, VIDEO] = t if "video" in scene.generates else 1.0
        timesteps[:, AUDIO] = t if "audio" in scene.generates else 1.0
        video = keyframes = None
        if "video" in known and scene.condition is not None:
            video = scene.condition.channels(known["video"])
        if "keyframes" in known and scene.keyframe_condition is not None:
            channels = scene.keyframe_condition.channels(known["keyframes"])
            keyframes = KeyframeInput(self._repeat(channels), scene.keyframe_indices)
        references = bool(scene.video_references or scene.audio_references)
        return JointInputs(
            text=self.text,
            timesteps=timesteps,
            text_mask=self.mask,
            video=None if video is None else self._repeat(video),
            audio=self._repeat(known["audio"]) if "audio" in known else None,
            audio_time_scale=scene.audio_time_scale,
            video_references=[self._repeat(reference) for reference in scene.video_references],
            audio_references=[self._repeat(reference) for reference in scene.audio_references],
            keyframes=keyframes,
            sparsity=scene.sparsity,
            reference_rows=self.reference_rows if references else None,
            cross_modal=True if self.cross_modal is None else self.cross_modal,
        )

    def _repeat(self, latents: Tensor) -> Tensor:
        rows = self.text.shape[0]
        return latents.repeat(rows // latents.shape[0], *[1] * (latents.ndim - 1))

    def _rows(self, left_out: Pass, batch: int, device: torch.device) -> Tensor | None:
        """(B * passes,) bool, False in the rows of `left_out`; None where that pass does not run."""
        if left_out not in self.passes:
            return None
        return torch.tensor([p is not left_out for p in self.passes], device=device).repeat_interleave(batch)


def stack_text(rows: Sequence[TextPair]) -> tuple[Tensor, Tensor | None]:
    """Join texts of several lengths along the batch, padded with zeros; no mask where nothing is padded."""
    longest = max(hidden.shape[1] for hidden, _ in rows)
    text = torch.cat([_pad(hidden, longest) for hidden, _ in rows])
    mask = torch.cat([_pad(mask, longest) for _, mask in rows])
    return text, None if bool(mask.all()) else mask


def _pad(tensor: Tensor, length: int) -> Tensor:
    """(B, S, ...) -> (B, length, ...), zeros or False after the end."""
    missing = tensor.new_zeros(tensor.shape[0], length - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, missing], 1)


def _streams(outputs: JointOutputs, wanted: Streams) -> Streams:
    """The velocities of the streams that are generated."""
    found = {"video": outputs.video, "audio": outputs.audio, "keyframes": outputs.keyframes}
    return {name: velocity for name, velocity in found.items() if velocity is not None and name in wanted}
