"""What a clip is conditioned on, one small class per task, all through one (V, I, M) interface (paper, section 3.2)."""

from model.conditioning.frames import ExtendBackward, ExtendForward, ImageToVideo, KeyframesToVideo
from model.conditioning.interface import (
    BLACK,
    Conditioning,
    Encode,
    GenerationTask,
    TextToAudio,
    TextToAudioVideo,
    TextToVideo,
    VideoCondition,
    VideoToAudio,
)
from model.conditioning.masks import blank, composite, latent_keep_mask
from model.conditioning.references import (
    AudioReference,
    ImageReference,
    Reference,
    VideoReference,
    check_tags,
    edited_reference,
    encode_audio_references,
    encode_visual_references,
    fit_to_size,
    mentioned,
    tagged,
)
from model.conditioning.regions import Editing, Inpainting

__all__ = [
    "BLACK",
    "AudioReference",
    "Conditioning",
    "Editing",
    "Encode",
    "ExtendBackward",
    "ExtendForward",
    "GenerationTask",
    "ImageReference",
    "ImageToVideo",
    "Inpainting",
    "KeyframesToVideo",
    "Reference",
    "TextToAudio",
    "TextToAudioVideo",
    "TextToVideo",
    "VideoCondition",
    "VideoReference",
    "VideoToAudio",
    "blank",
    "check_tags",
    "composite",
    "edited_reference",
    "encode_audio_references",
    "encode_visual_references",
    "fit_to_size",
    "latent_keep_mask",
    "mentioned",
    "tagged",
]
