"""A labelled folder of many files: clean clips, cuts, fades, one planted fault per file, duplicates, offsets, sounds.

Every file is made from its plan entry alone, so a plan can be rendered anywhere, in any order, in parts.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.synthesis import conditions, defects
from pipelines.synthesis.captions import sound_parts, still_parts
from pipelines.synthesis.film import Film
from pipelines.synthesis.sampler import sample_film, sample_impact_film
from pipelines.synthesis.signage import with_letterbox, with_shop_signs, with_sign, with_subtitles, with_watermark
from pipelines.synthesis.studio import Rendered, render
from skyreels.media.encode import write_flac, write_video

# One turn of the world. Repeated with new seeds as often as the number of files asks for.
CYCLE = (
    "clean", "cuts", "clean-speech", "blur", "av-late", "dissolves", "clean", "over-exposed", "fades", "audio-speech",
    "clean-impacts", "under-exposed", "exact-duplicate", "static", "av-early", "audio-noise", "clean", "shake",
    "near-duplicate-reencoded", "audio-clipped", "letterbox", "cuts", "image", "repeated-frames", "audio-music",
    "near-duplicate-cropped", "audio-silent", "watermark", "clean-speech", "audio-low-bandwidth", "text-overlay",
    "near-duplicate-brightened", "audio-singing", "subtitles", "clean", "audio-sfx",
    "clean-signs", "clean-water", "clean-rain", "clean-pauses",
)  # fmt: skip
GROUND_TRUTH_FILES = 2 * len(CYCLE)
FAULTS = (
    "blur", "over-exposed", "under-exposed", "static", "shake", "repeated-frames", "audio-noise", "audio-clipped",
    "audio-silent", "audio-low-bandwidth", "letterbox", "watermark", "text-overlay", "subtitles",
)  # fmt: skip
SOUND_ONLY = {"audio-speech": "speech", "audio-music": "music", "audio-singing": "singing", "audio-sfx": "impacts"}
SIGNAGE = {
    "letterbox": with_letterbox,
    "watermark": with_watermark,
    "text-overlay": with_sign,
    "subtitles": with_subtitles,
}
OFFSETS = (0.12, 0.2, 0.28)  # seconds between picture and sound


@dataclass(frozen=True)
class WorldFile:
    """One file to be: its name without ending, what it is, the seed of its film, and the file it is made after."""

    name: str
    kind: str
    seed: int
    original: str | None = None


def plan_world(count: int, seed: int) -> list[WorldFile]:
    """`count` entries, the cycle over and over; duplicates follow the clean clip that opens their turn."""
    entries: list[WorldFile] = []
    for index in range(count):
        turn, place = divmod(index, len(CYCLE))
        kind, name = CYCLE[place], f"{index:06d}-{CYCLE[place]}"
        if "duplicate" in kind:
            first = entries[turn * len(CYCLE)]
            entries.append(WorldFile(name, kind, first.seed, first.name))
        else:
            entries.append(WorldFile(name, kind, seed * 1_000_003 + index))
    return entries


def render_world(
    folder: str | Path,
    count: int = GROUND_TRUTH_FILES,
    seed: int = 0,
    *,
    size: tuple[int, int] = (256, 256),
    fps: Fraction | int = 24,
    seconds: float = 5.0,
    progress: Callable[[list[WorldFile]], Iterator[WorldFile]] = iter,
) -> list[dict[str, Any]]:
    """Write the files of a plan, their annotations and `truth.jsonl`, one row per file; returns the rows."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        render_entry(entry, folder, size=size, fps=fps, seconds=seconds) for entry in progress(plan_world(count, seed))
    ]
    lines = [json.dumps(row, ensure_ascii=False, default=float) + "\n" for row in rows]
    (folder / "truth.jsonl").write_text("".join(lines), "utf-8")
    return rows


def render_entry(
    entry: WorldFile, folder: str | Path, *, size: tuple[int, int], fps: Fraction | int, seconds: float
) -> dict[str, Any]:
    """Write one file with its annotation beside it; returns its row of truth.

    The annotation tells of the film as it was before its fault; the row tells of the fault.
    """
    folder = Path(folder)
    film = _film(entry, size, Fraction(fps), seconds)
    rendered = render(film)
    row: dict[str, Any] = {
        "file": f"{entry.name}.mp4",
        "media": "video",
        "kind": entry.kind,
        "clean": entry.kind.startswith("clean"),
        "fault": entry.kind if entry.kind in FAULTS else None,
        "cuts": rendered.annotation["cuts"],
        "duplicate_of": f"{entry.original}.mp4" if entry.original else None,
        "av_offset": 0.0,
        "audio_class": _audio_class(film),
        "annotation": f"{entry.name}.json",
    }
    if entry.kind == "image":
        row |= {"file": f"{entry.name}.png", "media": "image", "audio_class": None, "cuts": []}
        middle = next(defects.trim(rendered.frames(), film.frames // 2, 1))
        cv2.imwrite(str(folder / row["file"]), cv2.cvtColor(middle, cv2.COLOR_RGB2BGR))
    elif entry.kind in SOUND_ONLY:
        row |= {"file": f"{entry.name}.flac", "media": "audio", "cuts": []}
        write_flac(folder / row["file"], rendered.audio, film.sample_rate)
    else:
        frames, audio, offset = _tampered(entry, rendered, size)
        row["av_offset"] = offset
        crf = 30 if entry.kind == "near-duplicate-reencoded" else 18
        write_video(folder / row["file"], frames, film.fps, audio=audio, sample_rate=film.sample_rate, crf=crf)
    annotation = {"file": row["file"], "plan": asdict(entry), **rendered.annotation, **_told(entry, rendered)}
    text = json.dumps(annotation, ensure_ascii=False, default=float)
    (folder / row["annotation"]).write_text(text + "\n", "utf-8")
    return row


def _told(entry: WorldFile, rendered: Rendered) -> dict[str, Any]:
    """Captions of a file that holds only a picture or only the sound of its film."""
    film = rendered.set.film
    if entry.kind == "image":
        parts = still_parts(film, float(film.frames // 2 / film.fps))
    elif entry.kind in SOUND_ONLY:
        parts = sound_parts(film, rendered.events)
    else:
        return {}
    return {"captions": parts.forms(), "caption_parts": parts.model_dump(mode="json", exclude_defaults=True)}


def _film(entry: WorldFile, size: tuple[int, int], fps: Fraction, seconds: float) -> Film:
    kind, seed = entry.kind, entry.seed
    rng = np.random.default_rng((seed, 0x3D))
    if kind in ("clean-impacts", "av-late", "av-early", "audio-sfx"):
        return sample_impact_film(seed, size=size, fps=fps, seconds=seconds, impacts=max(1, min(6, int(1.3 * seconds))))
    if kind in ("cuts", "dissolves", "fades"):
        transition = {"cuts": "cut", "dissolves": "dissolve", "fades": "fade"}[kind]
        shots = int(rng.integers(2, 5)) if kind == "cuts" else 2
        # A shot is no shorter than the original clips: cutting one out leaves something to keep.
        return sample_film(seed, size=size, fps=fps, seconds=0.6 * shots * seconds, shots=shots, transition=transition)  # type: ignore[arg-type]
    if kind == "clean-signs":  # seen by a hand-held camera, for which it is larger than its view
        wide, high = (round(side * conditions.HOLDING_ROOM / 2) * 2 for side in size)
        return with_shop_signs(sample_film(seed, size=(wide, high), fps=fps, seconds=seconds, camera="static"), seed)
    sound: Any = "speech" if kind in ("clean-speech", "clean-pauses") else SOUND_ONLY.get(kind, "full")
    subjects = 1 if sound == "speech" and kind not in SOUND_ONLY else None
    film = sample_film(seed, size=size, fps=fps, seconds=seconds, sound=sound, subjects=subjects)
    if kind == "static":
        return defects.freeze(film)
    if kind == "shake":
        return defects.shake(film, seed=seed)
    return SIGNAGE[kind](film, seed) if kind in SIGNAGE else film


def _tampered(
    entry: WorldFile, rendered: Rendered, size: tuple[int, int]
) -> tuple[Iterator[np.ndarray], np.ndarray, float]:
    """(frames, audio, how many seconds the sound is late) of the file, its one fault or condition planted."""
    film, frames, audio = rendered.set.film, rendered.frames(), rendered.audio
    if entry.kind in ("av-late", "av-early"):
        delay = OFFSETS[entry.seed % len(OFFSETS)] * (1 if entry.kind == "av-late" else -1)
        samples = round(delay * film.sample_rate)
        return frames, defects.shift_sound(audio, samples), samples / film.sample_rate
    fps, seed = float(film.fps), entry.seed
    pictures: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        "blur": lambda: defects.blur(frames),
        "over-exposed": lambda: defects.expose(frames, 2.5),
        "under-exposed": lambda: defects.expose(frames, -4.5),
        "repeated-frames": lambda: defects.repeat_frames(frames, 4),
        "near-duplicate-cropped": lambda: defects.crop(frames),
        "near-duplicate-brightened": lambda: defects.brighten(frames),
        "clean-signs": lambda: conditions.hold(frames, size, fps, seed),
        "clean-water": lambda: conditions.adapt_exposure(conditions.water(size, fps, film.frames, seed), fps),
        "clean-rain": lambda: conditions.flicker(conditions.rain(frames, seed), fps, seed=seed),
    }
    sounds: dict[str, Callable[[], np.ndarray]] = {
        "clean-pauses": lambda: conditions.pause(audio),
        "audio-noise": lambda: defects.add_noise(audio, seed=entry.seed),
        "audio-clipped": lambda: defects.clip_sound(audio),
        "audio-silent": lambda: defects.mute(audio, 0.8),
        "audio-low-bandwidth": lambda: defects.limit_bandwidth(audio, film.sample_rate),
    }
    return (
        pictures[entry.kind]() if entry.kind in pictures else frames,
        sounds[entry.kind]() if entry.kind in sounds else audio,
        0.0,
    )


def _audio_class(film: Film) -> str:
    track = film.sound
    if track.lines:
        return "singing" if track.lines[0].notes else "speech"
    return "music" if track.music is not None else "sfx"
