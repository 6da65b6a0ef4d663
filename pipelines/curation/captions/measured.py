"""A caption from measurements alone. It says what was measured and nothing else: no subject, no place, no meaning."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.curation.captions import checks
from pipelines.curation.captions.requests import CaptionError, CaptionRequest, CaptionResult, check_keys
from pipelines.dataset.captions import Caption, StructuredCaption

MODEL = "measured-1"
_CAMERA = {"static": "is static", "handheld": "is handheld and shakes", "pan": "pans", "tilt": "tilts", "zoom": "zooms"}
_SOUNDS = {"sound_effect": "sound effects", "music": "music", "speech": "speech", "singing": "singing"}
_DARK, _BRIGHT = 60.0, 170.0  # mean luma
_FLAT, _CONTRASTY = 25.0, 60.0  # standard deviation of luma
_LITTLE, _MUCH = 0.02, 0.12  # diagonals per second
_BEAT = 0.25  # strength below which a tempo means nothing

Measurements = Mapping[str, Any]


class MeasuredCaptioner:
    """Needs no model; `caption_source` is "measured"."""

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionResult]:
        check_keys(requests)
        return [_answer(request) for request in requests]


def _answer(request: CaptionRequest) -> CaptionResult:
    started = time.perf_counter()
    caption = _caption(request.measurements, request.transcript)
    if caption is None:
        error = CaptionError("neither a length nor a size was measured", "give `seconds`, or `width` and `height`")
        return CaptionResult(request.key, None, error)
    found = tuple(checks.issues(caption, request.transcript))
    return CaptionResult(request.key, caption, None, time.perf_counter() - started, 0, found)


def _caption(measured: Measurements, transcript: str | None) -> Caption | None:
    kind = _kind(measured)
    if kind is None:
        return None
    camera, light, sound, beat = _camera(measured), _light(measured), _sound(measured), _beat(measured)
    heard = _SOUNDS.get(str(measured.get("audio.class")))
    onsets = _onsets(measured)
    words = f'The words are: "{transcript}"' if transcript else None
    sentences = [f"{kind}.", camera, _movement(measured), light, sound, onsets, beat, words]
    return Caption(
        short=kind + (f" with {heard}." if heard else "."),
        long=" ".join(sentence for sentence in sentences if sentence),
        structured=StructuredCaption(
            camera_motion=camera,
            lighting=light,
            sfx=[onsets or "Sound effects."] if heard == "sound effects" else [],
            dialogue=[transcript] if transcript and heard != "singing" else [],
            singing=[transcript] if transcript and heard == "singing" else [],
            bgm=[beat or "Music."] if heard == "music" else [],
        ),
        caption_source="measured",
        model=MODEL,
    )


def _kind(measured: Measurements) -> str | None:
    seconds, width, height = (measured.get(name) for name in ("seconds", "width", "height"))
    if not seconds and not (width and height):
        return None
    shape = ""
    if width and height:
        shape = "square " if abs(width / height - 1) < 0.05 else "wide " if width > height else "upright "
    size = f" of {width} x {height} pixels" if width and height else ""
    if not seconds:
        return f"A {shape}picture{size}"
    return f"A {shape}clip{size}, {seconds:.1f} seconds long" if size else f"A recording of {seconds:.1f} seconds"


def _camera(measured: Measurements) -> str | None:
    """From labels such as `pan_left`."""
    label = measured.get("visual.camera")
    movement, _, direction = str(label).partition("_")
    if label is None:
        return None
    return f"The camera {_CAMERA.get(movement, f'moves: {movement}')}{' ' + direction if direction else ''}."


def _movement(measured: Measurements) -> str | None:
    speed = measured.get("visual.object_motion")
    if speed is None:
        return None
    return "Little moves." if speed < _LITTLE else "Something moves." if speed < _MUCH else "Much moves, and fast."


def _light(measured: Measurements) -> str | None:
    luma, contrast = measured.get("visual.luma_mean"), measured.get("visual.contrast")
    if luma is None or contrast is None:
        return None
    level = "dark" if luma < _DARK else "bright" if luma > _BRIGHT else "of middle brightness"
    return f"The picture is {level}{_contrast(contrast)}."


def _contrast(contrast: float) -> str:
    return " and flat" if contrast < _FLAT else " and rich in contrast" if contrast > _CONTRASTY else ""


def _sound(measured: Measurements) -> str | None:
    heard = _SOUNDS.get(str(measured.get("audio.class")))
    if heard is None:
        return None
    silent = measured.get("audio.silence_ratio")
    pauses = f", with silence for {silent:.0%} of the time" if silent is not None and silent > 0.1 else ""
    return f"The sound is mainly {heard}{pauses}."


def _onsets(measured: Measurements) -> str | None:
    rate, seconds = measured.get("audio.onsets_per_s"), measured.get("seconds")
    if rate is None or not seconds:
        return None
    count = round(rate * seconds)
    return f"{count} sudden sound{'s' if count != 1 else ''}." if count else None


def _beat(measured: Measurements) -> str | None:
    strength, tempo = measured.get("audio.beat_strength"), measured.get("audio.tempo_bpm")
    if strength is None or tempo is None or strength < _BEAT:
        return None
    return f"A beat at {tempo:.0f} per minute."
