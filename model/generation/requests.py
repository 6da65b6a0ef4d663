"""From the arguments of a call to one task: which clip, which media, which streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from model.codecs import AudioCodec, VideoCodec
from model.conditioning import (
    Editing,
    ExtendBackward,
    ExtendForward,
    ImageToVideo,
    Inpainting,
    KeyframesToVideo,
    Task,
    TextToAudio,
    TextToAudioVideo,
    TextToVideo,
    VideoToAudio,
)
from model.config import UsualClip
from model.media import Image, Mask, Video, cover, cover_mask, image_tensor, keep_mask_tensor, video_tensor
from model.shapes import ClipShape, VideoCodecSpec

VideoUse = Literal["extend", "lead_up", "edit", "add_sound"]


@dataclass(frozen=True)
class MediaRequest:
    """What a caller gives besides words. `seconds` is the length of the whole result, given frames included.

    `video` is extended at its end ("extend") or its beginning ("lead_up"), edited as the prompt says ("edit"), or
    given sound ("add_sound"); with a `mask` it is inpainted where the mask is 1. `audio` (channels, samples) is
    what the result shall sound like, with any of these. `sound` and `picture` switch a stream off.
    """

    image: Image | None = None
    last_image: Image | None = None
    keyframes: Sequence[tuple[float, Image]] = ()
    video: Video | None = None
    video_use: VideoUse = "extend"
    mask: Mask | None = None
    audio: Tensor | None = None
    sound: bool = True
    picture: bool = True
    seconds: float | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None

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


def plan(
    request: MediaRequest,
    defaults: UsualClip,
    video: VideoCodec,
    audio: AudioCodec | None,
    patch: tuple[int, int] = (2, 2),
) -> tuple[ClipShape, Task]:
    """The clip to make and the task that makes it, media scaled to the clip. `patch` is latents per token."""
    given = None if request.video is None else video_tensor(request.video)
    fps = request.fps or defaults.fps
    step = (video.spec.stride[1] * patch[0], video.spec.stride[2] * patch[1])
    height, width = _size(request, defaults, given, step)
    spec = audio.spec if audio is not None and (request.sound or request.audio is not None) else None
    if spec is None and (request.audio is not None or not request.picture):
        raise ValueError("sound was given or asked for alone, but this model has no audio codec")
    if given is not None and (request.mask is not None or request.video_use in ("edit", "add_sound")):
        frames = _whole_latents(given.shape[1], video.spec)
        clip = ClipShape(frames, fps, height, width, video.spec, spec)
    else:
        seconds = request.seconds or defaults.seconds + (0 if given is None else given.shape[1] / fps)
        clip = ClipShape.from_seconds(seconds, fps, height, width, video.spec, spec)
    return clip, _task(request, clip, given)


def fitted_sound(audio: Tensor, clip: ClipShape) -> Tensor:
    """(channels, samples) as (1, channels, audio_samples), silence after its end."""
    missing = max(0, clip.audio_samples - audio.shape[-1])
    return F.pad(audio.float(), (0, missing))[None, :, : clip.audio_samples]


def _task(request: MediaRequest, clip: ClipShape, given: Tensor | None) -> Task:
    if given is not None:
        return _video_task(request, clip, given)
    placed = [(seconds, image) for seconds, image in request.keyframes]
    if request.image is not None:
        placed.insert(0, (0.0, request.image))
    if request.last_image is not None:
        placed.append((clip.seconds, request.last_image))
    if placed:
        images = [cover(image_tensor(image)[:, None], clip.height, clip.width)[:, 0][None] for _, image in placed]
        if len(placed) == 1 and request.image is not None:
            return ImageToVideo(images[0])
        return KeyframesToVideo(images, [seconds for seconds, _ in placed])
    if clip.audio is None:
        return TextToVideo()
    return TextToAudioVideo() if request.picture else TextToAudio()


def _video_task(request: MediaRequest, clip: ClipShape, given: Tensor) -> Task:
    if request.mask is not None:
        keep = keep_mask_tensor(request.mask)
        if keep.shape[1] not in (1, given.shape[1]):
            raise ValueError(f"the mask has {keep.shape[1]} frames and the video {given.shape[1]}: give 1 or as many")
        if keep.shape[-2:] != given.shape[-2:]:
            raise ValueError(f"the mask is {tuple(keep.shape[-2:])} pixels and the video {tuple(given.shape[-2:])}")
        keep, given = cover_mask(keep, clip.height, clip.width), cover(given, clip.height, clip.width)
        return Inpainting(given[None, :, : clip.frames], keep[None, :, : clip.frames])
    given = cover(given, clip.height, clip.width)
    if request.video_use == "edit":
        return Editing(given[None, :, : clip.frames])
    if request.video_use == "add_sound":
        return VideoToAudio(given[None, :, : clip.frames])
    whole = _whole_latents(given.shape[1], clip.video)
    if request.video_use == "extend":
        return ExtendForward(given[None, :, -whole:])
    if request.video_use == "lead_up":
        return ExtendBackward(given[None, :, :whole])
    raise ValueError(f"video_use is {request.video_use!r}: use extend, lead_up, edit or add_sound")


def _whole_latents(frames: int, spec: VideoCodecSpec) -> int:
    """The most frames, at most `frames`, that fill whole latents."""
    nearest = spec.nearest_frames(frames)
    return nearest if nearest <= frames else nearest - spec.stride[0]


def _size(request: MediaRequest, defaults: UsualClip, given: Tensor | None, step: tuple[int, int]) -> tuple[int, int]:
    """(height, width): as asked, else the video's own cut to whole tokens, else the default."""
    if request.size is None and given is not None:
        height, width = (side // unit * unit for side, unit in zip(given.shape[-2:], step, strict=True))
    else:
        height, width = request.size or (defaults.height, defaults.width)
    if height < step[0] or width < step[1] or height % step[0] or width % step[1]:
        raise ValueError(f"size {(height, width)} must be multiples of {step} pixels, one token of this model")
    return height, width
