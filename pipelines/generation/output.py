"""What a generated clip is written as: MP4 with sound, WAV or FLAC for sound alone, PNG or JPEG for one picture."""

from pathlib import Path, PurePosixPath
from typing import Literal

from model.generation.run import Generated
from pipelines.generation.request import GenerationRequest, RequestError
from skyreels.media.encode import write_flac, write_video, write_wav
from skyreels.media.image import write_image

OutputKind = Literal["video", "sound", "still"]
SUFFIXES: dict[str, OutputKind] = {
    ".mp4": "video",
    ".wav": "sound",
    ".flac": "sound",
    ".png": "still",
    ".jpg": "still",
    ".jpeg": "still",
}


def output_kind(output: str) -> OutputKind:
    """What the suffix of `output` stands for. Raises RequestError."""
    suffix = PurePosixPath(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError("output", f"{output!r} must end in one of {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def check_output(request: GenerationRequest, output: str) -> OutputKind:
    """The kind of file that `request` makes; RequestError where `output` is another."""
    asked: OutputKind = "still" if request.still else "video" if request.picture else "sound"
    if output_kind(output) != asked:
        fitting = ", ".join(suffix for suffix, kind in SUFFIXES.items() if kind == asked)
        raise RequestError("output", f"{output!r} cannot hold what is asked for, {asked}: end it in {fitting}")
    return asked


def write_output(made: Generated, kind: OutputKind, path: Path) -> None:
    """Write what was made; the suffix of `path` tells the format."""
    sound = None if made.audio is None else made.audio.numpy()
    rate = made.clip.audio.sample_rate if made.clip.audio is not None else 0
    if kind == "still":
        write_image(path, made.frames[0])
    elif kind == "video":
        write_video(path, made.frames, made.clip.fps, audio=sound, sample_rate=rate)
    elif sound is not None:
        (write_wav if path.suffix.lower() == ".wav" else write_flac)(path, sound, rate)


def record_name(name: str) -> str:
    """The name of the record beside the clip `name`."""
    return str(PurePosixPath(name).with_suffix(".json"))
