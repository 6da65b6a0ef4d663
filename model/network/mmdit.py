"""The dual-stream MMDiT of SkyReels-V4: twin video and audio branches over one text (paper, section 3.1).

    inputs = JointInputs(text=..., timesteps=..., video=..., audio=..., audio_time_scale=clip.audio_time_scale)
    outputs = model(inputs)        # JointOutputs: velocities of video, audio and keyframes

Data lies at t = 1: z_t = t z_0 + (1 - t) eps, and velocities are z_0 - eps (eq. 6). Either branch runs alone: leave
its latents out. While sampling, `predict` runs one step and `cache` saves what is the same in all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from model.config import TransformerConfig
from model.network.attention import KeysValues, keeping_attention
from model.network.blocks import BranchState, JointLayer
from model.network.branch import AudioBranch, Branch, Entered, MediaTokens, VideoBranch
from model.network.inputs import AUDIO, VIDEO, JointInputs, JointOutputs
from model.network.parallel import SequenceRanks, check_ranks
from model.sampling.flow import velocity_from_clean, velocity_from_residual

__all__ = ["AUDIO", "VIDEO", "JointInputs", "JointOutputs", "MMDiT", "StepCache", "predict"]


@dataclass(frozen=True)
class StepCache:
    """What is the same at every sampling step: projected text and references, positions, masks."""

    video: Entered | None = None
    audio: Entered | None = None
    keys_values: tuple[KeysValues, ...] | None = None
    """Of the video branch's text cross-attention, per layer."""


class MMDiT(nn.Module):
    """M dual-stream, then N single-stream layers of a video and an audio branch of equal width.

    `gradient_checkpointing` recomputes each layer in the backward pass, with `keeps_attention` all but the outputs of
    its attentions: little memory, and most of the work of a long sequence. `keeps_text_keys` lets `cache` hold keys and
    values of the text of every layer, for which it reads their weights. Parameters may be kept in bfloat16: modulation,
    rotation, norms and residual sums are float32 all the same.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = self.keeps_attention = False
        self.sequence_ranks: SequenceRanks | None = None
        self.keeps_text_keys = True
        if config.video_channels:
            self.video = VideoBranch(config)
        if config.audio_channels:
            self.audio = AudioBranch(config)
        self.layers = nn.ModuleList(JointLayer(config, index) for index in range(config.layers))

    def forward(self, inputs: JointInputs, cache: StepCache | None = None) -> JointOutputs:
        """Velocities of everything noisy in `inputs`."""
        cache = cache or StepCache()
        entered = self._enter_video(inputs, cache.video), self._enter_audio(inputs, cache.audio)
        video, audio = (branch.state if branch is not None else None for branch in entered)
        for layer, keys_values in zip(self.layers, cache.keys_values or [None] * len(self.layers), strict=True):
            arguments = (video, audio, inputs.cross_modal, keys_values)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                contexts = keeping_attention if self.keeps_attention else noop_context_fn
                video, audio = checkpoint(layer, *arguments, use_reentrant=False, context_fn=contexts)
            else:
                video, audio = layer(*arguments)
        return self._leave(video, audio, inputs)

    def share_sequences(self, ranks: SequenceRanks) -> None:
        """Spread the video tokens of every sequence over `ranks`, for clips too long for one of them.

        All of them call `forward` with equal weights and equal inputs, and all get the whole velocities. When each
        takes the loss of all that it gets, the mean over ranks of a parameter's gradient is its gradient on one rank.
        """
        check_ranks(self.config.heads, ranks.size)
        self.sequence_ranks = ranks

    @torch.no_grad()
    def cache(self, inputs: JointInputs) -> StepCache:
        """From the inputs of any step: later ones may differ from it in timesteps and noisy latents alone."""
        video, audio = self._enter_video(inputs, None), self._enter_audio(inputs, None)
        if video is None or not self.keeps_text_keys:
            return StepCache(video, audio)
        layers = cast(Iterable[JointLayer], self.layers)
        keys_values = tuple(layer.video.text_attention.keys_values(video.context.text) for layer in layers)
        return StepCache(video, audio, keys_values)

    @property
    def dtype(self) -> torch.dtype:
        """The precision the weights are kept in."""
        return next(self.parameters()).dtype

    def _enter_video(self, inputs: JointInputs, cached: Entered | None) -> Entered | None:
        if inputs.video is None:
            return None
        if not self.config.video_channels:
            raise ValueError("video latents were given to a model built without video (video_channels is 0)")
        known = cached.media if cached is not None else None
        media = self.video.embed(inputs.video, inputs, self.sequence_ranks, known)
        return self._told(self.video, media, inputs, VIDEO, cached)

    def _enter_audio(self, inputs: JointInputs, cached: Entered | None) -> Entered | None:
        if inputs.audio is None:
            return None
        if not self.config.audio_channels:
            raise ValueError("audio latents were given to a model built without audio (audio_channels is 0)")
        media = self.audio.embed(inputs.audio, inputs, cached.media if cached is not None else None)
        return self._told(self.audio, media, inputs, AUDIO, cached)

    def _told(
        self, branch: Branch, media: MediaTokens, inputs: JointInputs, column: int, cached: Entered | None
    ) -> Entered:
        """A branch's tokens with their timesteps and text."""
        timesteps = inputs.timesteps[:, column]
        if cached is not None:
            return Entered(media, branch.context_at(timesteps, cached.context))
        text = branch.text_in(inputs.text.to(self.dtype))
        return Entered(media, branch.context(media, timesteps, text, inputs.text_mask))

    def _leave(self, video: BranchState | None, audio: BranchState | None, inputs: JointInputs) -> JointOutputs:
        sequence = keyframes = sound = None
        if video is not None and inputs.video is not None:
            levels = inputs.timesteps[:, VIDEO]
            sequence, keyframes = self.video.latents(video, inputs.video, inputs)
            sequence = self._velocity(sequence, inputs.video, levels)
            if keyframes is not None and inputs.keyframes is not None:
                keyframes = self._velocity(keyframes, inputs.keyframes.latents, levels)
        if audio is not None and inputs.audio is not None:
            sound = self.audio.latents(audio, inputs.audio)
            sound = self._velocity(sound, inputs.audio, inputs.timesteps[:, AUDIO])
        return JointOutputs(sequence, sound, keyframes)

    def _velocity(self, predicted: Tensor, entered: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity that `predicted` (B, C, ...) means, where `entered` are noisy latents (B, C, ...), or those with
        their condition (B, 2 C + 1, ...).
        """
        if self.config.prediction == "velocity":
            return predicted
        channels, levels = predicted.shape[1], timesteps.float()
        noisy = entered[:, :channels].float()
        if self.config.prediction == "x0":
            return velocity_from_clean(predicted, noisy, levels)
        return velocity_from_residual(predicted, entered[:, channels : 2 * channels].float(), noisy, levels)


@torch.no_grad()
def predict(model: MMDiT, inputs: JointInputs, cache: StepCache | None = None) -> JointOutputs:
    """One sampling step's velocities, without gradients. `cache` is `model.cache` of another step's inputs."""
    made: JointOutputs = model(inputs, cache)
    return made
