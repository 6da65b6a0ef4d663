"""One layer of the twin MMDiT: joint attention with text, text again, the other modality, MLPs (paper, section 3.1).

`JointLayer` holds the same layer of both branches and fixes the order in which they read each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import TransformerConfig
from model.network.attention import CrossAttention, KeysValues, SelfProjection, attend
from model.network.modulation import Modulation, Vector, gated_residual, modulated_norm
from model.network.parallel import Shards
from model.network.rope import RotaryTable, rotate
from model.network.sparse.attention import SparsePlan, sparse_attention


@dataclass(frozen=True)
class BranchContext:
    """What every layer of one branch is told and none changes. N media tokens (video or audio), S text tokens.

    Where `shards` spread the media over ranks, N are all of them in `rotary`, `joint_mask`, `media_mask` and `sparse`,
    and this rank's in `time_rotary` and `modulation`, as in the states that pass through the layers.
    """

    rotary: RotaryTable
    """Of media then text, N + S rows."""
    time_rotary: RotaryTable
    """Of the media's times alone, over the whole head: what aligns video with audio."""
    text: Tensor
    """(B, S, width) text as projected, before any layer mixed it: what the text cross-attention reads."""
    modulation: Modulation
    """Of the media, 6: shift, scale, gate of attention and of the MLP. In a joint model 9: then shift and scale
    towards the other branch, and what this branch's noise level adds to the gate of the other's reading of it."""
    text_modulation: Modulation
    """6 of the text."""
    embedding: Tensor
    """(B, width) of this branch's timesteps, float32."""
    shards: Shards
    joint_mask: Tensor | None = None
    """(B, N + S) bool, True where a token exists."""
    media_mask: Tensor | None = None
    text_mask: Tensor | None = None
    sparse: SparsePlan | None = None


class Mlp(nn.Sequential):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


class DualStream(nn.Module):
    """Self-attention over media and text with weights of their own for each (paper, eqs. 1-3)."""

    def __init__(self, config: TransformerConfig, sparse: bool) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.media_table = nn.Parameter(torch.zeros(6, width))
        self.text_table = nn.Parameter(torch.zeros(6, width))
        self.media_attention = SelfProjection(width, heads)
        self.text_attention = SelfProjection(width, heads)
        self.media_mlp = Mlp(width, config.mlp_width)
        self.text_mlp = Mlp(width, config.mlp_width)
        self.coarse_gate = coarse_gate(width) if sparse else None

    def attend(self, media: Tensor, text: Tensor, context: BranchContext) -> tuple[Tensor, Tensor]:
        """Both streams after joint self-attention."""
        shift, scale, gate, *_ = context.modulation.select(0, 6).with_table(self.media_table)
        text_shift, text_scale, text_gate, *_ = context.text_modulation.with_table(self.text_table)
        mixed = self._mixed(media, text, (shift, scale), (text_shift, text_scale), context)
        media_mixed, text_mixed = mixed.split((media.shape[1], text.shape[1]), 1)
        media = gated_residual(media, self.media_attention.out(media_mixed), gate)
        return media, gated_residual(text, self.text_attention.out(text_mixed), text_gate)

    def _mixed(
        self, media: Tensor, text: Tensor, to_media: Sequence[Vector], to_text: Sequence[Vector], context: BranchContext
    ) -> Tensor:
        """Joint attention of both streams, normed with shift and scale. Queries, keys and values end with this call."""
        normed = modulated_norm(media, *to_media)
        parts = zip(self.media_attention(normed), self.text_attention(modulated_norm(text, *to_text)), strict=True)
        q, k, v = (torch.cat(pair, 1) for pair in parts)
        return joint_attention(q, k, v, context, self.coarse_gate, normed)

    def feed_forward(self, media: Tensor, text: Tensor, context: BranchContext) -> tuple[Tensor, Tensor]:
        """Each stream through its own MLP."""
        *_, shift, scale, gate = context.modulation.select(0, 6).with_table(self.media_table)
        *_, text_shift, text_scale, text_gate = context.text_modulation.with_table(self.text_table)
        media = gated_residual(media, self.media_mlp(modulated_norm(media, shift, scale)), gate)
        return media, gated_residual(text, self.text_mlp(modulated_norm(text, text_shift, text_scale)), text_gate)


class SingleStream(nn.Module):
    """The same over one concatenated sequence with shared weights."""

    def __init__(self, config: TransformerConfig, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, config.width))
        self.attention = SelfProjection(config.width, config.heads)
        self.mlp = Mlp(config.width, config.mlp_width)
        self.coarse_gate = coarse_gate(config.width) if sparse else None

    def attend(self, media: Tensor, text: Tensor, context: BranchContext) -> tuple[Tensor, Tensor]:
        """Both parts of the sequence after self-attention."""
        tokens = torch.cat((media, text), 1)
        shift, scale, gate, *_ = context.modulation.select(0, 6).with_table(self.table)
        normed = modulated_norm(tokens, shift, scale)
        q, k, v = self.attention(normed)
        mixed = joint_attention(q, k, v, context, self.coarse_gate, normed[:, : media.shape[1]])
        del q, k, v  # they would lie beside the sum
        tokens = gated_residual(tokens, self.attention.out(mixed), gate)
        return _split(tokens, media.shape[1])

    def feed_forward(self, media: Tensor, text: Tensor, context: BranchContext) -> tuple[Tensor, Tensor]:
        """Both parts through the one MLP."""
        tokens = torch.cat((media, text), 1)
        *_, shift, scale, gate = context.modulation.select(0, 6).with_table(self.table)
        tokens = gated_residual(tokens, self.mlp(modulated_norm(tokens, shift, scale)), gate)
        return _split(tokens, media.shape[1])


class BranchState(NamedTuple):
    """One branch between two layers: media (B, N, width), text (B, S, width), and what all layers share.

    A tuple, because ZeRO-3 finds the tensors it hooks in tuples and not in dataclasses.
    """

    media: Tensor
    text: Tensor
    context: BranchContext


class BranchLayer(nn.Module):
    """One branch's part of a layer. Only video reads the text a second time (paper, eq. 4)."""

    def __init__(self, config: TransformerConfig, *, dual: bool, reads_text: bool, sparse: bool) -> None:
        super().__init__()
        self.reads_text = reads_text
        self.streams = DualStream(config, sparse) if dual else SingleStream(config, sparse)
        if reads_text:
            self.text_norm = nn.LayerNorm(config.width, eps=1e-6)
            self.text_attention = CrossAttention(config.width, config.heads)
        if config.joint:
            self.cross_table = nn.Parameter(torch.zeros(2, config.width))

    def attend(self, state: BranchState, text_keys_values: KeysValues | None = None) -> BranchState:
        """Steps 1 and 2 of a layer: joint self-attention, then (video) media + Attn(Q=media, K=V=text)."""
        context = state.context
        media, text = self.streams.attend(state.media, state.text, context)
        if self.reads_text:
            keys_values = text_keys_values or self.text_attention.keys_values(context.text)
            media = media + self.text_attention(self.text_norm(media), keys_values, context.text_mask)
        return BranchState(media, text, context)

    def feed_forward(self, state: BranchState) -> BranchState:
        """Step 4: the MLPs."""
        media, text = self.streams.feed_forward(state.media, state.text, state.context)
        return BranchState(media, text, state.context)

    def towards_other(self, state: BranchState) -> Tensor:
        """The media as the attention between branches sees them, on either side of it."""
        shift, scale = state.context.modulation.select(6, 8).with_table(self.cross_table)
        return modulated_norm(state.media, shift, scale)


class CrossModalAttention(nn.Module):
    """One branch reads the other; its gate is zero at init and follows the *other* branch's noise level."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config.width, config.heads)
        self.gate = nn.Parameter(torch.zeros(config.width))

    def forward(
        self, state: BranchState, seen: Tensor, other: BranchContext, other_seen: Tensor, rows: bool | Tensor
    ) -> BranchState:
        """media + gate * CrossAttn(Q=seen, K=V=other_seen), aligned by rotary time alone (paper, eq. 5).

        `rows` (B,) bool closes the gate of the samples it is False for.
        """
        keys_values = self.attention.keys_values(other_seen, other.time_rotary)
        update = self.attention(seen, keys_values, other.media_mask, state.context.time_rotary, other.shards)
        gate = other.modulation.noisy[:, 8:9] + self.gate.float()
        if isinstance(rows, Tensor):
            gate = gate * rows.to(gate)[:, None, None]
        return state._replace(media=gated_residual(state.media, update, Vector(gate)))


class JointLayer(nn.Module):
    """The same layer of both branches, or of the one there is."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        self.audio_first = config.audio_first
        dual = index < config.dual_blocks
        if config.video_channels:
            self.video = BranchLayer(config, dual=dual, reads_text=True, sparse=config.sparse)
        if config.audio_channels:
            self.audio = BranchLayer(config, dual=dual, reads_text=False, sparse=False)
        if config.joint:
            self.audio_reads_video = CrossModalAttention(config)
            self.video_reads_audio = CrossModalAttention(config)

    def forward(
        self,
        video: BranchState | None,
        audio: BranchState | None,
        cross_modal: bool | Tensor,
        text_keys_values: KeysValues | None = None,
    ) -> tuple[BranchState | None, BranchState | None]:
        """Each branch's state to the next; a branch given as None stays out.

        `text_keys_values` are those of the video's text cross-attention, where they are kept over sampling steps.
        """
        if video is not None:
            video = self.video.attend(video, text_keys_values)
        if audio is not None:
            audio = self.audio.attend(audio)
        if cross_modal is not False and video is not None and audio is not None:
            video, audio = self._exchange(video, audio, cross_modal)
        if video is not None:
            video = self.video.feed_forward(video)
        if audio is not None:
            audio = self.audio.feed_forward(audio)
        return video, audio

    def _exchange(self, video: BranchState, audio: BranchState, rows: bool | Tensor) -> tuple[BranchState, BranchState]:
        """Audio reads video; then video reads the audio that has read it (eq. 5), or as it was where parallel."""
        video_seen, audio_seen = self.video.towards_other(video), self.audio.towards_other(audio)
        audio = self.audio_reads_video(audio, audio_seen, video.context, video_seen, rows)
        if self.audio_first:
            audio_seen = self.audio.towards_other(audio)
        return self.video_reads_audio(video, video_seen, audio.context, audio_seen, rows), audio


def joint_attention(
    q: Tensor, k: Tensor, v: Tensor, context: BranchContext, gate: nn.Linear | None, media: Tensor
) -> Tensor:
    """Self-attention of (B, N + S, heads, d) media and text to (B, N + S, width), dense or sparse on the video grid.

    `gate` of the normed `media` weighs the coarse stage of sparse attention.
    """
    text = context.text.shape[1]
    q, k, v = (context.shards.to_heads(part.transpose(1, 2), text) for part in (q, k, v))
    q, k = rotate(q, context.rotary), rotate(k, context.rotary)
    if context.sparse is None or gate is None:
        mixed = attend(q, k, v, context.joint_mask)
    else:
        weights = _coarse_weights(gate, media, context.sparse, context.shards, head_width=q.shape[-1])
        mixed = sparse_attention(q, k, v, weights, context.sparse, context.joint_mask)
    return context.shards.to_tokens(mixed, text).transpose(1, 2).flatten(2)


def coarse_gate(width: int) -> nn.Linear:
    """Weight of the coarse stage per channel, zero at init so that dense weights warm-start a sparse model."""
    gate = nn.Linear(width, width)
    nn.init.zeros_(gate.weight)
    nn.init.zeros_(gate.bias)
    return gate


def _coarse_weights(gate: nn.Linear, media: Tensor, plan: SparsePlan, shards: Shards, head_width: int) -> Tensor:
    """(B, heads, grid tokens, d) of the normed media (B, N, width)."""
    if shards.ranks is None:
        made: Tensor = gate(plan.slice_grid(media, 1)).unflatten(-1, (-1, head_width)).transpose(1, 2)
        return made
    weights = gate(media).unflatten(-1, (-1, head_width)).transpose(1, 2)
    return plan.slice_grid(shards.to_heads(weights), 2)


def _split(tokens: Tensor, media: int) -> tuple[Tensor, Tensor]:
    return tokens[:, :media], tokens[:, media:]
