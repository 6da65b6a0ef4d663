"""What a branch has outside its layers: latents to tokens with positions, text and time, and tokens to latents."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from model.config import TransformerConfig
from model.network.attention import merge_masks
from model.network.blocks import BranchContext, BranchState
from model.network.inputs import JointInputs
from model.network.keyframes import keyframe_positions
from model.network.modulation import Modulation, ModulationProjection, TimeEmbedding, Vector, modulated_norm
from model.network.parallel import UNSHARDED, SequenceRanks, Shards
from model.network.rope import RotaryTable, audio_times, axis_widths, grid_positions, reference_times, rotary_table
from model.network.sparse.attention import SparsePlan


@dataclass(frozen=True)
class MediaTokens:
    """Tokens of one modality before the first layer: references, then the sequence, then keyframes.

    N of them, of which this rank holds those in `tokens` and `time_rotary` where `shards` spread them.
    """

    tokens: Tensor
    """(B, N, width)."""
    rotary: RotaryTable
    time_rotary: RotaryTable
    references: int
    """How many tokens at the start are references."""
    mask: Tensor | None = None
    """(B, N) bool, True where a token exists."""
    sparse: SparsePlan | None = None
    shards: Shards = UNSHARDED

    @property
    def count(self) -> int:
        """N."""
        return self.rotary.cos.shape[-2]


class Entered(NamedTuple):
    """A branch before its first layer. While sampling, that of one step serves all others."""

    media: MediaTokens
    context: BranchContext

    @property
    def state(self) -> BranchState:
        """What the first layer takes."""
        return BranchState(self.media.tokens, self.context.text, self.context)


class Branch(nn.Module):
    """Embeddings, modulations and output head of one branch; both branches have the same."""

    def __init__(self, config: TransformerConfig, in_width: int, out_width: int, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.axes = axes  # channels of a head that each axis of the positions rotates
        width = config.width
        self.media_in = nn.Linear(in_width, width)
        self.text_in = nn.Sequential(
            nn.RMSNorm(config.text_width, eps=1e-6),  # some channels of an MLLM's hidden states are 100x the others
            nn.Linear(config.text_width, width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, width),
        )
        self.time = TimeEmbedding(width)
        self.media_modulation = ModulationProjection(width, 9 if config.joint else 6)
        self.text_modulation = ModulationProjection(width, 6)
        self.head_modulation = ModulationProjection(width, 2)
        self.head = nn.Linear(width, out_width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def context(
        self,
        media: MediaTokens,
        timesteps: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
    ) -> BranchContext:
        """What all layers of this branch share, for one timestep per sample, (B,) or (1,)."""
        batch, count, device = media.tokens.shape[0], media.count, media.tokens.device
        embedding = self.time(timesteps)
        modulation = Modulation(self.media_modulation(embedding))
        if media.references:
            clean = self.media_modulation(self.time(torch.ones_like(timesteps)))
            modulation = Modulation(modulation.noisy, clean, media.shards.own_of(media.references))
        return BranchContext(
            rotary=media.rotary.then(self.table(torch.zeros(text.shape[1], len(self.axes), device=device))),
            time_rotary=media.time_rotary,
            text=text,
            modulation=modulation,
            text_modulation=Modulation(self.text_modulation(embedding)),
            embedding=embedding,
            shards=media.shards,
            joint_mask=merge_masks([(media.mask, count), (text_mask, text.shape[1])], batch, device),
            media_mask=media.mask,
            text_mask=text_mask,
            sparse=media.sparse,
        )

    def context_at(self, timesteps: Tensor, context: BranchContext) -> BranchContext:
        """`context` of the same tokens and text, at other timesteps."""
        embedding = self.time(timesteps)
        return replace(
            context,
            modulation=replace(context.modulation, noisy=self.media_modulation(embedding)),
            text_modulation=Modulation(self.text_modulation(embedding)),
            embedding=embedding,
        )

    def project_out(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Tokens after the last layer to latent values in float32, for a time embedding (B, width)."""
        shift, scale = self.head_modulation(embedding).unsqueeze(2).unbind(1)
        made: Tensor = self.head(modulated_norm(tokens, Vector(shift), Vector(scale))).float()
        return made

    def table(self, positions: Tensor) -> RotaryTable:
        """Rotation for positions (..., N, axes); text stands at the origin, where the clip starts."""
        return rotary_table(positions, self.axes, self.config.rope_theta)

    def time_table(self, times: Tensor) -> RotaryTable:
        """Rotation by time alone over the whole head, for times (..., N) in video latents."""
        return rotary_table(times[..., None], (self.config.head_width,), self.config.rope_theta)


class VideoBranch(Branch):
    """Latents (V, I, M) on channels (paper, section 3.2), references before them in time (section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        patch = config.patch[1] * config.patch[2]
        axes = axis_widths(config.head_width)
        super().__init__(config, (2 * config.video_channels + 1) * patch, config.video_channels * patch, axes)
        self.keyframe_embedding = nn.Parameter(torch.zeros(config.width))

    def embed(
        self,
        video: Tensor,
        inputs: JointInputs,
        ranks: SequenceRanks | None = None,
        known: MediaTokens | None = None,
    ) -> MediaTokens:
        """Tokens of references, of the sequence `video` and of keyframes, with their positions, spread over `ranks`.

        `known` are those of another sampling step: only what is noisy is embedded anew.
        """
        if known is not None and ranks is None:
            return replace(
                known, tokens=torch.cat((known.tokens[:, : known.references], *self._noisy(video, inputs)), 1)
            )
        dtype, device = self.media_in.weight.dtype, video.device
        lengths = [reference.shape[2] for reference in inputs.video_references]
        frames = torch.cat([*map(reference_channels, inputs.video_references), video], 2)
        patches = self._patches(frames)
        time, height, width = video.shape[2], *self._token_grid(video)
        per_frame = height * width
        times = torch.cat((reference_times(lengths, device), torch.arange(time, device=device, dtype=torch.float32)))
        rows, columns = (torch.arange(n, device=device, dtype=torch.float32) for n in (height, width))
        positions = grid_positions(times, rows, columns)
        before_keyframes = positions.shape[0]
        if inputs.keyframes is not None:
            keyframes = inputs.keyframes
            patches = torch.cat((patches, self._patches(keyframes.latents)), 1)
            size = self._token_grid(keyframes.latents)
            extra_positions = keyframe_positions(keyframes.indices, size, (height, width), device)
            positions = torch.cat((positions, extra_positions))
        shards = Shards(patches.shape[1], ranks)
        tokens = self.media_in(shards.own(patches, 1).to(dtype))
        if inputs.keyframes is not None:
            is_keyframe = shards.own(torch.arange(shards.tokens, device=device) >= before_keyframes)
            tokens = tokens + is_keyframe[:, None] * self.keyframe_embedding
        references = sum(lengths) * per_frame
        shown = None if inputs.reference_rows is None else inputs.reference_rows[:, : len(lengths)]
        return MediaTokens(
            tokens=tokens,
            rotary=self.table(positions),
            time_rotary=self.time_table(shards.own(positions[:, 0])),
            references=references,
            mask=_token_mask(inputs.video_mask, per_frame, shown, [n * per_frame for n in lengths], patches),
            sparse=self._sparse_plan(references, (time, height, width), inputs),
            shards=shards,
        )

    def latents(self, state: BranchState, video: Tensor, inputs: JointInputs) -> tuple[Tensor, Tensor | None]:
        """Last tokens to (B, C, T, H, W) of the sequence and (B, C, K, Hk, Wk) of the keyframes, on every rank."""
        keyframes, context = inputs.keyframes, state.context
        height, width = self._token_grid(video)
        start = sum(reference.shape[2] for reference in inputs.video_references) * height * width
        stop = start + video.shape[2] * height * width
        if context.shards.ranks is None:
            values = self.project_out(state.media[:, start:], context.embedding)
        else:
            values = context.shards.whole(self.project_out(state.media, context.embedding), 1)[:, start:]
        sequence = self._unpatch(values[:, : stop - start], (height, width))
        if keyframes is None:
            return sequence, None
        return sequence, self._unpatch(values[:, stop - start :], self._token_grid(keyframes.latents))

    def _noisy(self, video: Tensor, inputs: JointInputs) -> list[Tensor]:
        """Tokens of the sequence, and of keyframes where there are any."""
        dtype = self.media_in.weight.dtype
        tokens = [self.media_in(self._patches(video).to(dtype))]
        if inputs.keyframes is not None:
            tokens.append(self.media_in(self._patches(inputs.keyframes.latents).to(dtype)) + self.keyframe_embedding)
        return tokens

    def _token_grid(self, latents: Tensor) -> tuple[int, int]:
        size, patch = latents.shape[-2:], self.config.patch[1:]
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(f"latents of {tuple(size)} do not divide into patches of {patch}: change the clip's size")
        return size[0] // patch[0], size[1] // patch[1]

    def _patches(self, latents: Tensor) -> Tensor:
        _, rows, columns = self.config.patch
        return rearrange(latents, "b c t (h p) (w q) -> b (t h w) (c p q)", p=rows, q=columns)

    def _unpatch(self, values: Tensor, grid: tuple[int, int]) -> Tensor:
        _, rows, columns = self.config.patch
        height, width = grid
        pattern = "b (t h w) (c p q) -> b c t (h p) (w q)"
        return rearrange(values, pattern, h=height, w=width, p=rows, q=columns)

    def _sparse_plan(self, start: int, grid: tuple[int, int, int], inputs: JointInputs) -> SparsePlan | None:
        config = self.config
        if not config.sparse:
            if inputs.sparsity:
                raise ValueError(f"sparsity {inputs.sparsity} needs a model built with `sparse: true`")
            return None
        if inputs.video_mask is not None:
            raise ValueError("sparse attention takes clips of one length per batch: leave video_mask out")
        short = grid[0] * grid[1] * grid[2] < config.sparse_min_tokens
        return SparsePlan(start, grid, 0.0 if short else inputs.sparsity, config.sparse_cube, config.sparse_kernel)


class AudioBranch(Branch):
    """One token per audio latent; references before them on negative times."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, config.audio_channels, config.audio_channels, (config.head_width,))

    def embed(self, audio: Tensor, inputs: JointInputs, known: MediaTokens | None = None) -> MediaTokens:
        """Tokens of references and of the sequence `audio`, with their positions; `known` as for video."""
        if known is not None:
            noisy = self.media_in(audio.mT.to(self.media_in.weight.dtype))
            return replace(known, tokens=torch.cat((known.tokens[:, : known.references], noisy), 1))
        lengths = [reference.shape[2] for reference in inputs.audio_references]
        latents = torch.cat((*inputs.audio_references, audio), 2)
        tokens = self.media_in(latents.mT.to(self.media_in.weight.dtype))
        references = sum(lengths)
        shown = None if inputs.reference_rows is None else inputs.reference_rows[:, len(inputs.video_references) :]
        times = audio_times(audio.shape[2], inputs.audio_time_scale, audio.device, references)
        table = self.time_table(times if times.dim() == 1 else times[:, None])
        return MediaTokens(
            tokens=tokens,
            rotary=table,
            time_rotary=table,
            references=references,
            mask=_token_mask(inputs.audio_mask, 1, shown, lengths, tokens),
        )

    def latents(self, state: BranchState, audio: Tensor) -> Tensor:
        """Last tokens to (B, Ca, L) of the sequence."""
        return self.project_out(state.media[:, -audio.shape[2] :], state.context.embedding).mT


def reference_channels(latents: Tensor) -> Tensor:
    """A reference in the (V, I, M) layout: its own latent twice, keep_mask 1 (docs/decisions/0022)."""
    return torch.cat((latents, latents, torch.ones_like(latents[:, :1])), 1)


def _token_mask(
    frames: Tensor | None, tokens_per_frame: int, shown: Tensor | None, references: list[int], like: Tensor
) -> Tensor | None:
    """(B, N) bool over reference, sequence and keyframe tokens `like`; None where all exist.

    `frames` (B, T) tells which frames of the sequence exist, `shown` (B, R) which references do, whose tokens are as
    many as `references` say.
    """
    if frames is None and (shown is None or not references):
        return None
    mask = torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
    start = sum(references)
    if frames is not None:
        stop = start + frames.shape[1] * tokens_per_frame
        mask[:, start:stop] = frames.bool().repeat_interleave(tokens_per_frame, 1)
    if shown is not None:
        parts = [row[:, None].expand(-1, count) for row, count in zip(shown.bool().unbind(1), references, strict=True)]
        mask[:, :start] = torch.cat(parts, 1) if parts else mask[:, :0]
    return mask
