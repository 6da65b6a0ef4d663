"""What a multimodal model is told: one instruction, the clip's facts, its frames, its sound."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import soundfile

from pipelines.curation.captions.replies import reply_schema
from pipelines.curation.captions.requests import CaptionRequest, Samples
from pipelines.dataset.captions import ShotAngle, ShotPosition, ShotType

_LANGUAGES = {"en": "English", "zh": "Chinese", "de": "German", "fr": "French", "es": "Spanish", "ja": "Japanese"}
_MAX_AUDIO_BYTES = 32 << 20
_QUOTED = 20_000  # characters of a refused reply that are shown to the model again
_FACTS = {
    "seconds": "length in seconds",
    "visual.camera": "camera, measured from optical flow",
    "audio.class": "main sound, by a classifier",
    "audio.tempo_bpm": "tempo in beats per minute",
}

Message = dict[str, Any]


def instruction(language: str = "en") -> str:
    """The system message: the task, the form, the vocabulary."""
    return "\n".join(
        [
            "You describe clips for training a model that generates video together with its sound.",
            "You get frames of one clip in order of time, its sound if there is any, and facts that were measured.",
            "Write only what is seen or heard. Where something is not there or cannot be told, use null or [].",
            "",
            f"Write in {_LANGUAGES.get(language, language)}, as one JSON object and nothing else:",
            '- "id": the id you were given, unchanged.',
            '- "short": one sentence on what happens and how it sounds.',
            '- "long": a paragraph with every visual detail: subjects, looks, actions in order of time, setting, '
            "light, style, camera.",
            '- "structured": the same field by field.',
            "  Exactly one subject has is_main = true. Positions are seen from the viewer.",
            f"  shot_type: {_options(ShotType)}.",
            f"  shot_angle: {_options(ShotAngle)}.",
            f"  shot_position: {_options(ShotPosition)}.",
            "  camera_motion: how the camera moves, or that it stands still.",
            "  text: every piece of text in the picture, letter by letter, in its own script.",
            "  sfx: single sounds and ambience, with the time where it matters.",
            "  dialogue: who speaks, how, and the exact words in their own language.",
            "  singing: who sings, how, and the words.",
            "  bgm: music that has no source in the picture: genre, instruments, mood, tempo.",
            "",
            "The object follows this JSON schema:",
            json.dumps(reply_schema(), separators=(",", ":")),
        ]
    )


def facts(request: CaptionRequest) -> str:
    """The user's words: the id, what was measured, what was heard."""
    still = request.measurements.get("kind") == "image"
    shown = "one still image" if still else f"{len(request.frames)} frames, evenly spaced"
    lines = [f"id: {request.key}", f"picture: {shown}"]
    lines += [f"{words}: {_value(request.measurements[name])}" for name, words in _FACTS.items() if _has(request, name)]
    lines.append("sound: attached" if request.audio is not None else "sound: none is attached; say nothing of sound")
    if request.transcript:
        lines.append(f"speech recognition heard: {json.dumps(request.transcript, ensure_ascii=False)}")
    return "\n".join(lines)


def chat(request: CaptionRequest, language: str = "en") -> list[Message]:
    """Messages as OpenAI's chat completions take them: images as data URLs, sound as `input_audio` (WAV)."""
    parts: list[Message] = [{"type": "text", "text": facts(request)}]
    parts += [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(f)}"}} for f in request.frames
    ]
    if request.audio is not None:
        parts.append({"type": "input_audio", "input_audio": {"data": _base64(wav(request.audio)), "format": "wav"}})
    return [{"role": "system", "content": instruction(language)}, {"role": "user", "content": parts}]


def repair(messages: Sequence[Message], reply: str, detail: str) -> list[Message]:
    """The same talk, with what was wrong about the reply."""
    correction = f"That does not follow the schema: {detail}\nWrite the whole object again, corrected."
    return [
        *messages,
        {"role": "assistant", "content": [{"type": "text", "text": reply[:_QUOTED]}]},
        {"role": "user", "content": [{"type": "text", "text": correction}]},
    ]


def wav(audio: Path | Samples) -> bytes:
    """16-bit WAV bytes of (C, N) samples or of a file (a WAV as it is). Raises ValueError if it is too large."""
    if isinstance(audio, Path):
        size = audio.stat().st_size
        if size > _MAX_AUDIO_BYTES:
            raise ValueError(f"{audio} has {size} bytes, at most {_MAX_AUDIO_BYTES} are sent: cut it first")
        if audio.suffix.lower() == ".wav":
            return audio.read_bytes()
        samples, rate = read_samples(audio)
    else:
        samples, rate = audio
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1).T, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def read_samples(audio: Path | Samples) -> Samples:
    """(C, N) float samples and their rate. Raises ValueError for a file without sound."""
    if not isinstance(audio, Path):
        return audio
    try:
        samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(str(error)) from None
    return samples.T, rate


def _options(literal: Any) -> str:
    return ", ".join(get_args(literal)) + ", or null"


def _has(request: CaptionRequest, name: str) -> bool:
    return request.measurements.get(name) is not None


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("_", " ")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
