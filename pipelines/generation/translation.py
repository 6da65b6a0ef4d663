"""A request off the wire in the generator's words, and what is wrong with it in the caller's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.generation.request import GenerationRequest, RequestError
from skyreels.config import ConfigError, build
from skyreels.serving.request import VideoRequest
from skyreels.serving.servable import RequestRefused

# Fields of a request off the wire that the generator calls otherwise.
_NAMES = {
    "first_frame": "image",
    "last_frame": "last_image",
    "source_video": "video",
    "source_audio": "audio",
    "num_inference_steps": "steps",
    "window_seconds": "window",
    "overlap_seconds": "overlap",
    "audio": "sound",
}
_AS_THEY_ARE = ("prompt", "negative_prompt", "seconds", "fps", "seed", "guidance_scale", "audio_guidance_scale")


def generation_request(request: VideoRequest) -> GenerationRequest:
    """What the generator is asked. Raises ConfigError where a bound of the generator's is narrower."""
    values: dict[str, Any] = {name: getattr(request, name) for name in _AS_THEY_ARE}
    values |= {ours: getattr(request, theirs) for theirs, ours in _NAMES.items()}
    references: dict[str, list[str]] = {}
    for reference in request.references:
        references.setdefault(reference.tag, []).append(reference.source)
    values |= {
        "keyframes": [{"seconds": frame.time, "image": frame.image} for frame in request.keyframes],
        "references": references,
        "mask": request.mask,
        "remove": request.remove,
        "refine": request.refine,
        "video_use": request.task or "extend",
    }
    if request.shots:
        values["prompt"] = [{"prompt": shot.prompt, "seconds": shot.seconds} for shot in request.shots]
    if request.width_and_height is not None:
        values["width"], values["height"] = request.width_and_height
    return build(GenerationRequest, {name: value for name, value in values.items() if value is not None}, "the request")


def task_of(request: VideoRequest) -> str:
    """The usual name of what is asked."""
    if request.remove:
        return "removal"
    if request.mask is not None:
        return "inpaint"
    if request.task is not None:
        return "v2a" if request.task == "add_sound" else request.task
    if request.keyframes or request.last_frame is not None:
        return "keyframes"
    if request.first_frame is not None:
        return "i2v"
    if request.references:
        return "r2v"
    return "a2v" if request.source_audio is not None else "t2v"


@contextmanager
def refusals(files: Mapping[str, Path]) -> Iterator[None]:
    """Errors about the request, in its own words: fields as it calls them, and no path of this machine."""
    theirs = {ours: name for name, ours in _NAMES.items()}
    try:
        yield
    except (ValueError, ConfigError) as error:
        message = str(error)
        for path in files.values():
            message = message.replace(str(path), "the file")
        field = error.field if isinstance(error, RequestError) else None
        raise RequestRefused(theirs.get(field or "", field), message) from error
