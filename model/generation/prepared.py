"""A call checked and made whole before any network runs: words, media, the clip to make, and how it is sampled.

`prepare` needs no weights, only what `GeneratorSpec` says of the model, so it can run far from the device that renders.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.conditioning import (
    AudioReference,
    Conditioning,
    Editing,
    Encode,
    ExtendBackward,
    ExtendForward,
    GenerationTask,
    ImageReference,
    ImageToVideo,
    Inpainting,
    KeyframesToVideo,
    Reference,
    TextToAudio,
    TextToAudioVideo,
    TextToVideo,
    VideoReference,
    VideoToAudio,
    check_tags,
    encode_audio_references,
    encode_visual_references,
)
from model.config import GenerationConfig, SamplingConfig
from model.generation.enhancing import Write, by_rules, enhanced
from model.generation.prompts import Prompt, prompt_seconds, render_prompt
from model.generation.trained_ranges import remarks_on
from model.media import cover, cover_mask, frames_and_size, keep_mask_tensor, packed, unpacked
from model.network.refiner import refined_clip
from model.sampling.guidance import GuidanceScales, guidance_passes
from model.sampling.sampler import timestep_schedule
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

VideoUse = Literal["extend", "lead_up", "edit", "add_sound"]

MAX_PIXELS = 2**32
"""Of all frames of the result: 15 s of 3840 x 2176 at 32 fps. More is refused before anything is allocated."""


@dataclass(frozen=True)
class GeneratorSpec:
    """What preparing a call must know of a model: its codecs' shapes, its branches, how it is used by default."""

    video: VideoCodecSpec
    audio: AudioCodecSpec | None
    patch: tuple[int, int, int]
    """Latents (T, H, W) per token."""
    pictures: bool
    sounds: bool
    refines: bool
    config: GenerationConfig


@dataclass(frozen=True)
class Media:
    """What is given besides words, and what it is given for. Contradictions raise ValueError.

    Of a call, pictures are as `model.media.Image` and `Video` say; once prepared they are `packed` tensors.
    `image`, `last_image` and `keyframes`, (seconds, image) each, are passed through. `video` is extended at its end
    ("extend") or its beginning ("lead_up"), edited as the prompt says ("edit"), or given sound ("add_sound"); with a
    `mask`, 1 where to generate, it is inpainted, and pixels outside it are returned as they were. `audio` (channels,
    samples) at the codec's rate is what the picture is made for, with any of these; it is returned as it is. `sound`
    and `picture` switch a stream off.
    """

    image: Any = field(default=None, metadata={"of": "image"})
    last_image: Any = field(default=None, metadata={"of": "image"})
    keyframes: Sequence[tuple[float, Any]] = field(default=(), metadata={"of": "keyframes"})
    video: Any = field(default=None, metadata={"of": "video"})
    video_use: VideoUse = "extend"
    mask: Any = field(default=None, metadata={"of": "mask"})
    audio: Any = field(default=None, metadata={"of": "sound"})
    sound: bool = True
    picture: bool = True

    def __post_init__(self) -> None:
        images = [name for name in ("image", "last_image") if getattr(self, name) is not None]
        images += ["keyframes"] if self.keyframes else []
        if self.video is not None and images:
            raise ValueError(f"a video cannot be combined with {', '.join(images)}: its own frames say where it starts")
        if self.mask is not None and self.video is None:
            raise ValueError("a mask needs the video (or one-frame clip) whose region it marks")
        if not (self.sound or self.picture):
            raise ValueError("sound and picture are both switched off: nothing would be generated")
        if not self.picture and (images or self.video is not None):
            raise ValueError("picture is switched off, so no image or video can be used")
        if self.audio is not None and (not self.picture or self.video_use == "add_sound"):
            raise ValueError("audio was given and also asked for: leave the audio out, or have a picture made for it")

    @property
    def changes_video(self) -> bool:
        """Whether the video is to be another one of the same frames, whole or within the mask."""
        return self.video is not None and (self.mask is not None or self.video_use == "edit")


@dataclass(frozen=True)
class Prepared:
    """One call as plain values and CPU tensors: no file, no device, nothing left to look up. See `wire` for bytes.

    `prompt` is what is asked in the end, in a form that the model knows. `clip` is what the base makes, `refined` what
    the refiner makes of it, None where it is not asked. `seed` is that of the noise; None takes a fresh one. `remarks`
    say what lies outside of what the model was trained on.
    """

    prompt: str
    negative_prompt: str
    media: Media
    references: tuple[Reference, ...]
    clip: ClipShape
    settings: SamplingConfig
    refined: ClipShape | None = None
    seed: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def large(self) -> ClipShape:
        """The base's frames at the refiner's size: what keyframes and refiner are shown of images and kept source."""
        assert self.refined is not None
        return replace(self.clip, height=self.refined.height, width=self.refined.width)

    @property
    def scales(self) -> GuidanceScales:
        """How far each stream is guided."""
        settings = self.settings
        return GuidanceScales(
            settings.guidance_scale,
            settings.audio_guidance_scale,
            settings.reference_guidance_scale,
            settings.cross_modal_guidance_scale,
            settings.guidance_rescale,
        )


def prepare(
    spec: GeneratorSpec,
    prompt: Prompt,
    negative_prompt: str = "",
    *,
    references: Sequence[Reference] = (),
    audio_references: Sequence[AudioReference] = (),
    seconds: float | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    refine: bool = False,
    seed: int | None = None,
    enhance: Write | None = by_rules,
    **more: Any,
) -> Prepared:
    """Check a call as a whole. Raises ValueError naming what does not fit, TypeError for an argument that is none.

    Args:
        prompt: words, a structured prompt, or a list of timed shots, whose lengths then give `seconds`.
        references, audio_references: tagged subjects, clips and voices; the prompt must name each tag.
        seconds: length of the whole result. size: (height, width). fps: of the base and of media given.
        refine: run the refiner: larger, and at a higher frame rate.
        enhance: puts the prompt into a form that the model was trained on; None leaves the words alone, and so does
            the edit of a clip, whose prompt is an instruction.
        more: fields of `Media`, and of `SamplingConfig` in the place of the model's defaults; `num_inference_steps` is
            its `steps`. A guidance scale of 1 switches a term off; each reference whose scale is not 1 costs a pass.
    """
    media, settings = _media_and_settings(spec, more, referred=bool(references))
    edits = media.video is not None and media.video_use == "edit"
    forms = spec.config.trained.captions
    asked = enhanced(prompt, forms, None if edits else enhance, picture=media.picture)
    text, tagged = render_prompt(asked), (*references, *audio_references)
    check_tags(text, tagged)
    clip = _clip(spec, media, seconds or prompt_seconds(prompt), size, fps)
    refined = refined_clip(clip, spec.config.refiner) if refine else None
    largest = refined or clip
    if (pixels := largest.frames * largest.height * largest.width) > MAX_PIXELS:
        raise ValueError(
            f"{largest.frames} frames of {largest.width}x{largest.height} are {pixels / 1e9:.1f} billion pixels, at "
            f"most {MAX_PIXELS / 1e9:.1f} are made: ask for a smaller, shorter or slower clip"
        )
    remarks = remarks_on(clip, spec.config.trained, picture=media.picture)
    prepared = Prepared(text, negative_prompt, media, tagged, clip, settings, refined, seed, remarks)
    _rehearse(spec, prepared)
    return prepared


def conditioned(media: Media, clip: ClipShape, encode_video: Encode, encode_audio: Encode) -> Conditioning:
    """What the media are to a clip of that shape, scaled to it and encoded."""
    conditioning = _task(media, clip).prepare(clip, encode_video, encode_audio)
    if media.audio is None:
        return conditioning
    given = {**conditioning.given, "audio": encode_audio(fitted_sound(media.audio, clip))}
    return replace(conditioning, generates=conditioning.generates - {"audio"}, given=given)


def unencoded(media: Media, clip: ClipShape) -> Conditioning:
    """The same with latents of zeros, by no codec: which streams are generated, and what is kept of a source."""

    def video(pixels: Tensor) -> Tensor:
        frames = clip.video.latent_frames(pixels.shape[2])
        return torch.zeros(pixels.shape[0], clip.video.channels, frames, *clip.latent_size)

    def audio(waveform: Tensor) -> Tensor:
        assert clip.audio is not None
        return torch.zeros(waveform.shape[0], clip.audio.channels, clip.audio.latent_length(waveform.shape[-1]))

    return conditioned(media, clip, video, audio)


def fitted_sound(audio: Tensor, clip: ClipShape) -> Tensor:
    """(channels, samples) as (1, channels, audio_samples), silence after its end."""
    missing = max(0, clip.audio_samples - audio.shape[-1])
    return F.pad(audio.float(), (0, missing))[None, :, : clip.audio_samples]


def _media_and_settings(spec: GeneratorSpec, given: dict[str, Any], *, referred: bool) -> tuple[Media, SamplingConfig]:
    named = {("steps" if name == "num_inference_steps" else name): value for name, value in given.items()}
    media, sampling = ({spec.name for spec in dataclasses.fields(kind)} for kind in (Media, SamplingConfig))
    unknown = sorted(named.keys() - media - sampling)
    if unknown:
        raise TypeError(f"there is no argument {', '.join(unknown)}: besides its own, a call takes {media | sampling}")
    asked = Media(**{name: value for name, value in named.items() if name in media})
    packed_media: dict[str, Any] = {
        part.name: _PACKED[part.metadata["of"]](value)
        for part in dataclasses.fields(Media)
        if "of" in part.metadata and (value := getattr(asked, part.name)) is not None
    }
    for name, value in packed_media.items():
        tensors = [image for _, image in value] if isinstance(value, tuple) else [value]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise ValueError(f"{name} holds NaN or infinite values: give finite ones")
    sound, picture = asked.sound and spec.sounds, asked.picture and spec.pictures
    prepared = replace(asked, **packed_media, sound=sound, picture=picture)
    changed = {name: value for name, value in named.items() if name in sampling - media and value is not None}
    usual = spec.config.sampling
    shown = usual.edit_guidance_scale if prepared.changes_video else usual.referred_guidance_scale if referred else None
    usual = replace(usual, guidance_scale=usual.guidance_scale if shown is None else shown)
    return prepared, replace(usual, **changed)


_PACKED: dict[str, Callable[[Any], Any]] = {
    "image": partial(packed, of_image=True),
    "keyframes": lambda given: tuple((seconds, packed(image, of_image=True)) for seconds, image in given),
    "video": packed,
    "mask": lambda mask: ~keep_mask_tensor(mask)[0],
    "sound": lambda waveform: waveform,
}
"""How the values of a field of `Media` travel, by what its metadata say they are of."""


def _clip(
    spec: GeneratorSpec, media: Media, seconds: float | None, size: tuple[int, int] | None, fps: float | None
) -> ClipShape:
    for name, value in (("seconds", seconds), ("fps", fps)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}: it must be a number above 0")
    usual = spec.config.generation
    given = None if media.video is None else frames_and_size(media.video)
    fps = fps or usual.fps
    height, width = _size(spec, given, size)
    audio = spec.audio if media.sound or media.audio is not None else None
    if audio is None and (media.audio is not None or not media.picture):
        raise ValueError("sound was given or asked for alone, but this model has no audio codec")
    if given is not None and (media.mask is not None or media.video_use in ("edit", "add_sound")):
        return ClipShape(spec.video.whole_frames(given[0]), fps, height, width, spec.video, audio)
    seconds = seconds or usual.seconds + (0 if given is None else given[0] / fps)
    return ClipShape.from_seconds(seconds, fps, height, width, spec.video, audio)


def _size(spec: GeneratorSpec, given: tuple[int, int, int] | None, size: tuple[int, int] | None) -> tuple[int, int]:
    """(height, width): as asked, else the video's own cut to whole tokens, else the default."""
    step = (spec.video.stride[1] * spec.patch[1], spec.video.stride[2] * spec.patch[2])
    if size is None and given is not None:
        height, width = (side // unit * unit for side, unit in zip(given[1:], step, strict=True))
    else:
        height, width = size or (spec.config.generation.height, spec.config.generation.width)
    if height < step[0] or width < step[1] or height % step[0] or width % step[1]:
        raise ValueError(f"size {(height, width)} must be multiples of {step} pixels, one token of this model")
    return height, width


def _rehearse(spec: GeneratorSpec, prepared: Prepared) -> None:
    """All that a network's run would refuse is refused now."""
    clip, media = prepared.clip, prepared.media
    conditioning = unencoded(media, clip)
    if prepared.refined is not None:
        if not spec.refines:
            raise ValueError("refine=True, but this model has no refiner")
        if "video" not in conditioning.generates:
            raise ValueError("refine=True, but no picture is generated that could be refined")
    encode_visual_references(prepared.references, clip, lambda pixels: pixels[:, :1])
    shown = []
    for reference in prepared.references:
        values = _values(reference)
        if not all(bool(value.isfinite().all()) for value in values):
            raise ValueError(f"reference {reference.tag} holds NaN or infinite values: give finite ones")
        if isinstance(reference, AudioReference) and clip.audio is not None:
            encode_audio_references([reference], clip.audio, lambda waveform: waveform)
        shown += [reference.tag] if clip.audio or not isinstance(reference, AudioReference) else []
    streams = conditioning.generates
    guidance_passes(
        prepared.scales, streams, references=shown, joint={"video", "audio"} <= streams | conditioning.given.keys()
    )
    timestep_schedule(prepared.settings.steps, prepared.settings.shift)


def _values(reference: Reference) -> Sequence[Tensor]:
    if isinstance(reference, ImageReference):
        return reference.images
    return [reference.frames if isinstance(reference, VideoReference) else reference.waveform]  # type: ignore[attr-defined]


def _task(media: Media, clip: ClipShape) -> GenerationTask:
    """The one task that the media ask for, with them scaled to the clip."""
    if media.video is not None:
        return _video_task(media, clip, unpacked(media.video))
    placed = [(seconds, image) for seconds, image in media.keyframes]
    if media.image is not None:
        placed.insert(0, (0.0, media.image))
    if media.last_image is not None:
        placed.append((clip.seconds, media.last_image))
    if placed:
        images = [cover(unpacked(image), clip.height, clip.width)[:, 0][None] for _, image in placed]
        if len(placed) == 1 and media.image is not None:
            return ImageToVideo(images[0])
        return KeyframesToVideo(images, [seconds for seconds, _ in placed])
    if clip.audio is None:
        return TextToVideo()
    return TextToAudioVideo() if media.picture else TextToAudio()


def _video_task(media: Media, clip: ClipShape, given: Tensor) -> GenerationTask:
    if media.mask is not None:
        keep = keep_mask_tensor(media.mask)
        if keep.shape[1] not in (1, given.shape[1]):
            raise ValueError(f"the mask has {keep.shape[1]} frames and the video {given.shape[1]}: give 1 or as many")
        if keep.shape[-2:] != given.shape[-2:]:
            raise ValueError(f"the mask is {tuple(keep.shape[-2:])} pixels and the video {tuple(given.shape[-2:])}")
        keep, given = cover_mask(keep, clip.height, clip.width), cover(given, clip.height, clip.width)
        return Inpainting(given[None, :, : clip.frames], keep[None, :, : clip.frames])
    given = cover(given, clip.height, clip.width)
    if media.video_use == "edit":
        return Editing(given[None, :, : clip.frames])
    if media.video_use == "add_sound":
        return VideoToAudio(given[None, :, : clip.frames])
    whole = clip.video.whole_frames(given.shape[1])
    if media.video_use == "extend":
        return ExtendForward(given[None, :, -whole:])
    if media.video_use == "lead_up":
        return ExtendBackward(given[None, :, :whole])
    raise ValueError(f"video_use is {media.video_use!r}: use extend, lead_up, edit or add_sound")
