"""Everything true of a film, as plain data: shots, cuts, boxes and masks, overlays, audio events, captions."""

import zlib
from base64 import b64encode
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from pipelines.synthesis.captions import caption_parts, captions, shot_captions
from pipelines.synthesis.film import Film
from pipelines.synthesis.masks import masks_at
from pipelines.synthesis.overlays import stamp_box
from pipelines.synthesis.soundtrack import SoundEvent
from pipelines.synthesis.stage import Set


def annotate(ready: Set, events: list[SoundEvent], *, masks: bool = False) -> dict[str, Any]:
    """The film's annotation, JSON-ready. With `masks`, each subject carries its masks per frame, packed."""
    film = ready.film
    edges = film.shot_frames
    return {
        "size": list(film.size),
        "fps": str(film.fps),
        "frames": film.frames,
        "sample_rate": film.sample_rate,
        "samples": film.samples,
        "seed": film.seed,
        "letterbox": round(film.letterbox * film.size[1]),
        "shots": [
            {"first_frame": edges[n], "end_frame": edges[n + 1], **asdict(shot), "structured": said}
            for n, (shot, said) in enumerate(zip(film.shots, shot_captions(film, events), strict=True))
        ],
        "cuts": _cuts(film),
        "subjects": _subjects(ready, masks),
        "overlays": [asdict(stamp.overlay) | {"box": list(stamp_box(stamp))} for stamp in ready.stamps],
        "audio_events": [event.as_dict() for event in events],
        "captions": captions(film, events),
        "caption_parts": caption_parts(film, events).model_dump(mode="json", exclude_defaults=True),
    }


def pack_mask(mask: np.ndarray) -> str:
    """(H, W) bool as text: bits packed row by row, deflated, base64."""
    return b64encode(zlib.compress(np.packbits(mask).tobytes(), 6)).decode("ascii")


def box_of(mask: np.ndarray) -> list[int] | None:
    """[x0, y0, x1, y1] round the true pixels, ends exclusive; None where there are none."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return [x, y, x + width, y + height] if width else None


def _cuts(film: Film) -> list[dict[str, Any]]:
    """Where shots change: `frame` is the first of the new shot; [first_frame, end_frame) are the frames in between."""
    found = []
    for number, shot in enumerate(film.shots[1:], start=1):
        frame = film.shot_frames[number]
        length = shot.transition_seconds * film.fps
        before, after = {"cut": (0, 0), "dissolve": (0, length), "fade": (length / 2, length / 2)}[shot.transition]
        found.append(
            {
                "kind": shot.transition,
                "frame": frame,
                "time": float(frame / film.fps),
                "first_frame": round(frame - before),
                "end_frame": round(frame + after),
            }
        )
    return found


def _subjects(ready: Set, masks: bool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for stage in ready.stages:
        for name, subject in zip(stage.names, stage.shot.scene.subjects, strict=True):
            if not subject.hidden:
                found[name] = asdict(subject) | {"boxes": [None] * ready.film.frames}
                if masks:
                    found[name]["masks"] = [None] * ready.film.frames
    for index in range(ready.film.frames):
        for name, mask in masks_at(ready, index).items():
            found[name]["boxes"][index] = box_of(mask)
            if masks:
                found[name]["masks"][index] = pack_mask(mask)
    return found
