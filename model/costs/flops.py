"""Floating-point operations of one forward pass, counted from the shapes.

Dual-stream layers need a formula of their own: media weights touch media tokens only and text weights text tokens
only, so `2 * parameters * tokens` would count too much. A multiply-add is 2 operations; norms, rotations and other
elementwise work are left out, as in every published count. The tests hold this against PyTorch's own counter.
"""

import math
from dataclasses import dataclass

from model.config import TransformerConfig
from model.network.modulation import FREQUENCY_WIDTH
from model.network.sparse.attention import SparsePlan


@dataclass(frozen=True)
class Workload:
    """Tokens of one sample. `grid` is the video's (T, H, W) in tokens, None without video."""

    text: int
    grid: tuple[int, int, int] | None = None
    keyframes: int = 0
    video_references: int = 0
    audio: int = 0
    audio_references: int = 0
    sparsity: float = 0.0

    @property
    def video_tokens(self) -> int:
        """Video tokens in all: references, sequence, keyframes."""
        return self.video_references + self.sequence + self.keyframes

    @property
    def sequence(self) -> int:
        """Tokens of the video grid."""
        return math.prod(self.grid) if self.grid else 0

    @property
    def audio_tokens(self) -> int:
        """Audio tokens in all."""
        return self.audio_references + self.audio


def forward_flops(config: TransformerConfig, work: Workload) -> int:
    """Operations of one forward pass of one sample; a training step takes 3 of these, 4 with recomputed layers."""
    width, video, audio = config.width, work.video_tokens, work.audio_tokens
    total = 0
    for _ in range(config.layers):
        if video:
            total += _streams(config, video, work.text) + _self_attention(config, work)
            total += _cross_attention(width, video, work.text)
            total += 2 * work.sequence * width**2 if config.sparse else 0
        if audio:
            total += _streams(config, audio, work.text) + 4 * (audio + work.text) ** 2 * width
        if video and audio:
            total += _cross_attention(width, audio, video) + _cross_attention(width, video, audio)
    if video:
        patch = config.patch[1] * config.patch[2]
        inside, outside = (2 * config.video_channels + 1) * patch, config.video_channels * patch
        generated = work.sequence + work.keyframes
        total += _ends(config, work.text, video, inside, generated, outside, work.video_references > 0)
    if audio:
        channels = config.audio_channels
        total += _ends(config, work.text, audio, channels, work.audio, channels, work.audio_references > 0)
    return total


def attention_flops(config: TransformerConfig, work: Workload) -> int:
    """The part of `forward_flops` that grows with the square of the tokens: scores, and values weighed by them."""
    width, video, audio = config.width, work.video_tokens, work.audio_tokens
    layer = 0
    if video:
        layer += _self_attention(config, work) + 4 * video * work.text * width
    if audio:
        layer += 4 * (audio + work.text) ** 2 * width
    if video and audio:
        layer += 2 * 4 * video * audio * width
    return config.layers * layer


def sparse_plan(config: TransformerConfig, work: Workload) -> SparsePlan | None:
    """What sparse attention leaves out of a sequence; None where the network has none."""
    if not config.sparse or work.grid is None:
        return None
    short = work.sequence < config.sparse_min_tokens
    return SparsePlan(0, work.grid, 0.0 if short else work.sparsity, config.sparse_cube)


def _streams(config: TransformerConfig, media: int, text: int) -> int:
    """Projections and MLPs of one branch: dual or single, every token passes one set of weights."""
    return 2 * (media + text) * (4 * config.width**2 + 2 * config.width * config.mlp_width)


def _self_attention(config: TransformerConfig, work: Workload) -> int:
    """Scores and values of video and text, dense or sparse on the grid."""
    width, total = config.width, work.video_tokens + work.text
    plan = sparse_plan(config, work)
    if plan is None:
        return 4 * total**2 * width
    cubes = math.prod(plan.cubes)
    coarse = 4 * cubes**2 * width
    if plan.sparsity == 0:
        return coarse + 4 * total**2 * width
    per_cube = math.prod(config.sparse_cube)
    rest = total - work.sequence
    fine = 4 * cubes * per_cube * (plan.kept * per_cube + rest) * width
    selection = 2 * cubes**2 * width
    return coarse + selection + fine + 4 * rest * total * width


def _cross_attention(width: int, queries: int, keys: int) -> int:
    """Query and output projections, key and value projections, scores and values."""
    return 4 * queries * width**2 + 4 * keys * width**2 + 4 * queries * keys * width


def _ends(
    config: TransformerConfig, text: int, tokens: int, inside: int, generated: int, outside: int, references: bool
) -> int:
    """Embedding of latents, text and time of one branch, and its output head."""
    width = config.width
    time = 2 * (FREQUENCY_WIDTH * width + width**2)
    media_modulation = 2 * width * width * (9 if config.joint else 6)
    return (
        2 * tokens * inside * width
        + 2 * text * (config.text_width * width + width**2)
        + (1 + references) * (time + media_modulation)
        + 2 * width * width * (6 + 2)
        + 2 * generated * width * outside
    )
