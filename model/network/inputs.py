"""What the transformer takes and returns: one dataclass each way, time in video latents, masks True where data is."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from model.network.keyframes import KeyframeInput

VIDEO, AUDIO = 0, 1
"""Columns of `JointInputs.timesteps`."""


@dataclass(frozen=True)
class JointInputs:
    """One batch of noisy latents and all they are conditioned on. B samples; a modality left out is None.

    Latents are normalised by their codec. References are clean latents: video ones padded to the video's height and
    width, all of them the same for every sample of the batch in shape.
    """

    text: Tensor
    """(B, S, text_width) hidden states of the frozen MLLM."""
    timesteps: Tensor
    """(B, 2) in [0, 1], 1 = clean: video, audio; (1, 2) for a whole batch. A modality that is given rather than
    generated stands at 1."""
    text_mask: Tensor | None = None
    """(B, S) bool, at least one True per sample; None where there is no padding, which is faster."""
    video: Tensor | None = None
    """(B, 2C+1, T, H, W): noisy latents V, condition latents I and keep_mask M (1 = keep) over channels."""
    audio: Tensor | None = None
    """(B, Ca, L) noisy latents."""
    audio_time_scale: float | Tensor = 0.0
    """`ClipShape.audio_time_scale`, or a (B,) tensor of them for clips of several lengths; needed with audio."""
    video_mask: Tensor | None = None
    """(B, T) bool: latent frames that exist, for clips of several lengths in one batch."""
    audio_mask: Tensor | None = None
    """(B, L) bool, likewise."""
    video_references: Sequence[Tensor] = ()
    """Each (B, C, N_i, H, W)."""
    audio_references: Sequence[Tensor] = ()
    """Each (B, Ca, L_i)."""
    keyframes: KeyframeInput | None = None
    sparsity: float = 0.0
    """Share of key cubes that Video Sparse Attention skips; only for models built with `sparse`."""
    reference_rows: Tensor | None = None
    """(B, R) bool, True where a sample is shown a reference (reference guidance): the video references, then the audio
    ones. A reference that is not shown keeps its place in time."""
    cross_modal: bool | Tensor = True
    """False keeps the branches from reading each other; a (B,) bool tensor chooses per sample (modality guidance)."""

    def __post_init__(self) -> None:
        if self.video is None and self.audio is None:
            raise ValueError("neither video nor audio latents were given")
        if self.audio is not None and not isinstance(self.audio_time_scale, Tensor) and self.audio_time_scale <= 0:
            raise ValueError("audio needs audio_time_scale, the clip's video latents per audio latent")
        if self.timesteps.shape not in ((self.text.shape[0], 2), (1, 2)):
            raise ValueError(
                f"timesteps {tuple(self.timesteps.shape)} must be (batch {self.text.shape[0]}, 2) or (1, 2)"
            )
        if self.keyframes is not None and self.video is None:
            raise ValueError("keyframes are denoised with the low-resolution video, which is missing")
        references = len(self.video_references) + len(self.audio_references)
        if self.reference_rows is not None and self.reference_rows.shape != (self.text.shape[0], references):
            raise ValueError(
                f"reference_rows {tuple(self.reference_rows.shape)} must be (batch {self.text.shape[0]}, {references} "
                "references)"
            )
        if self.video is not None:
            for reference in self.video_references:
                if reference.shape[-2:] != self.video.shape[-2:]:
                    raise ValueError(
                        f"a video reference of {tuple(reference.shape[-2:])} latents must be padded to the video's "
                        f"{tuple(self.video.shape[-2:])}"
                    )
        self._leave_out_full_masks()

    def _leave_out_full_masks(self) -> None:
        """A mask that is True everywhere only keeps attention from its fastest kernel, which takes none.

        Batches are made on the CPU. Elsewhere looking would wait for the device, so there what is given stays.
        """
        for name in ("text_mask", "video_mask", "audio_mask", "reference_rows"):
            mask = getattr(self, name)
            if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
                object.__setattr__(self, name, None)


@dataclass(frozen=True)
class JointOutputs:
    """Velocities z_0 - eps in float32, shaped as the noisy latents; None where a modality was left out."""

    video: Tensor | None = None
    audio: Tensor | None = None
    keyframes: Tensor | None = None
