"""In-context references: clean latents before the clip on negative times, bound to the prompt by tags.

Each image or clip is encoded alone and padded to the clip's size (paper, section 3.3); `rope.reference_times` gives
their times. The same media also go to the MLLM, which is the prompt encoder's business.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from model.conditioning.interface import BLACK, Encode
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

TAG = re.compile(r"@[\w-]+")


@dataclass(frozen=True)
class Reference:
    """`tag` is how the prompt names it: `@image_1`, `@video_1`, `@audio_1`, `@Actor-1`."""

    tag: str

    def __post_init__(self) -> None:
        if not TAG.fullmatch(self.tag):
            raise ValueError(f"reference tag {self.tag!r} must be @ and then letters, digits, _ or -")


@dataclass(frozen=True)
class ImageReference(Reference):
    """One subject in one or several `images`, (3, H, W) in [-1, 1] each, of any size."""

    images: Sequence[Tensor]


@dataclass(frozen=True)
class VideoReference(Reference):
    """A clip `frames` (3, F, H, W) in [-1, 1] for motion, style or effect, at the frame rate of what is generated."""

    frames: Tensor


@dataclass(frozen=True)
class AudioReference(Reference):
    """A voice or sound, `waveform` (channels, samples) at the audio codec's sample rate."""

    waveform: Tensor


def check_tags(prompt: str, references: Sequence[Reference]) -> None:
    """Raise ValueError where two references share a tag, or the prompt does not say what one is for."""
    tags = [reference.tag for reference in references]
    doubled = sorted({tag for tag in tags if tags.count(tag) > 1})
    if doubled:
        raise ValueError(f"several references are tagged {', '.join(doubled)}: give each its own tag")
    unused = sorted(set(tags) - mentioned(prompt))
    if unused:
        raise ValueError(f"the prompt does not mention {', '.join(unused)}: name each reference by its tag")


def mentioned(prompt: str) -> set[str]:
    """The tags that a prompt names."""
    return set(TAG.findall(prompt))


def tagged(prompt: str, reference: Reference) -> str:
    """The prompt that names the reference, at its end where it does not yet."""
    return prompt if reference.tag in mentioned(prompt) else f"{prompt}\nReference: {reference.tag}"


def edited_reference(video: Tensor, others: Sequence[Reference]) -> VideoReference:
    """The clip to edit (3, F, H, W) as the prompt encoder reads it: the first video that no other reference is."""
    taken = {reference.tag for reference in others}
    free = next(tag for number in count(1) if (tag := f"@video_{number}") not in taken)
    return VideoReference(free, video)


def encode_visual_references(
    references: Sequence[Reference], clip: ClipShape, encode_video: Encode
) -> tuple[Tensor, ...]:
    """Latents (1, C, N_i, h, w) of image and video references in order: an image is one latent frame."""
    latents: list[Tensor] = []
    for reference in references:
        if isinstance(reference, ImageReference):
            images = [fit_to_size(image[None, :, None], clip.height, clip.width) for image in reference.images]
            latents.append(torch.cat(encode_video(torch.cat(images)).split(1), 2))
        elif isinstance(reference, VideoReference):
            frames = fit_frames(reference.frames[None], clip.video)
            latents.append(encode_video(fit_to_size(frames, clip.height, clip.width)))
    return tuple(latents)


def encode_audio_references(
    references: Sequence[Reference], spec: AudioCodecSpec, encode_audio: Encode
) -> tuple[Tensor, ...]:
    """Latents (1, Ca, L_i) of audio references in order."""
    latents: list[Tensor] = []
    for reference in references:
        if isinstance(reference, AudioReference):
            samples = spec.samples_of(spec.latent_length(reference.waveform.shape[-1]))
            if not samples:
                raise ValueError(f"audio reference {reference.tag} is shorter than one latent, {spec.hop} samples")
            latents.append(encode_audio(reference.waveform[None, :, :samples]))
    return tuple(latents)


def fit_to_size(pixels: Tensor, height: int, width: int) -> Tensor:
    """Scale (B, 3, F, h, w) to fit into height x width with its aspect ratio, and pad black around it."""
    batch, _, frames, old_height, old_width = pixels.shape
    scale = min(height / old_height, width / old_width)
    size = (min(max(round(old_height * scale), 1), height), min(max(round(old_width * scale), 1), width))
    if size != (old_height, old_width):
        flat = pixels.transpose(1, 2).flatten(0, 1)
        flat = F.interpolate(flat, size, mode="bilinear", antialias=True).clamp(-1, 1)
        pixels = flat.unflatten(0, (batch, frames)).transpose(1, 2)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return F.pad(pixels, (left, width - size[1] - left, top, height - size[0] - top), value=BLACK)


def fit_frames(pixels: Tensor, spec: VideoCodecSpec) -> Tensor:
    """(B, 3, F, H, W) without the last frames that do not fill a latent."""
    lead = 1 if spec.causal_first else 0
    whole = spec.frames_of((pixels.shape[2] - lead) // spec.stride[0] + lead)
    if whole < 1:
        raise ValueError(f"{pixels.shape[2]} frames do not fill one latent of {spec.stride[0]} frames")
    return pixels[:, :, :whole]
