"""The sound of a film and the list of what sounds when, to the sample."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.synthesis.film import Film
from pipelines.synthesis.sound import impact_sound, mix_in, play_ambience, play_music, tone
from pipelines.synthesis.stage import Set
from pipelines.synthesis.voice import speak

PEAK = 0.89  # -1 dBFS


@dataclass(frozen=True)
class SoundEvent:
    """`start` and `end` in seconds are whole samples; `frame` is the first frame at or after `start`."""

    kind: str  # sfx | dialogue | singing | bgm | ambience
    label: str
    start: float
    end: float
    frame: int
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def record(ready: Set) -> tuple[np.ndarray, list[SoundEvent]]:
    """(2, N) float32 within [-1, 1], as long as the picture, and its events in order of time."""
    film, track = ready.film, ready.film.sound
    out = np.zeros((2, film.samples), np.float32)
    events: list[SoundEvent] = []
    if track.music is not None:
        out += track.music.level * play_music(track.music, film.samples, film.sample_rate, film.seed)
        events.append(_event(film, "bgm", f"{track.music.mood} plucked chords", 0, film.samples, asdict(track.music)))
    if track.ambience is not None:
        out += track.ambience.level * play_ambience(track.ambience, film.samples, film.sample_rate, film.seed)
        events.append(_event(film, "ambience", track.ambience.kind, 0, film.samples, asdict(track.ambience)))
    for beep in track.tones:
        start = round(beep.start * film.sample_rate)
        sound = tone(beep.frequency, beep.seconds, film.sample_rate)
        mix_in(out, beep.level * sound, start, 0.5)
        events.append(_event(film, "sfx", f"{beep.frequency:.0f} Hz tone", start, sound.size, {}))
    for line in track.lines:
        start = round(line.start * film.sample_rate)
        spoken = speak(line, film.sample_rate)
        mix_in(out, line.level * spoken.samples, start, 0.5)
        kind = "singing" if line.notes else "dialogue"
        details = asdict(line) | {"voice_source": spoken.source}
        events.append(_event(film, kind, line.text, start, spoken.samples.size, details))
    if track.impacts:
        events += _record_impacts(ready, out)
    peak = float(np.abs(out).max())
    if peak > PEAK:
        out *= PEAK / peak
    return out, sorted(events, key=lambda event: (event.start, event.kind, event.label))


def _record_impacts(ready: Set, out: np.ndarray) -> list[SoundEvent]:
    film, events = ready.film, []
    for number, stage in enumerate(ready.stages):
        subjects = stage.shot.scene.subjects
        first = float(film.shot_frames[number] / film.fps)
        last = float(film.shot_frames[number + 1] / film.fps)
        for count, hit in enumerate(stage.world.impacts):
            struck = [hit.subject] if isinstance(hit.other, str) else [hit.subject, hit.other]
            struck = [k for k in struck if not subjects[k].hidden]
            start = round((first + hit.time) * film.sample_rate)
            if not struck or first + hit.time >= last or start >= film.samples:
                continue
            gain = (0.4 + 0.5 * min(1.0, hit.strength / 1.5)) / len(struck)
            for k in struck:
                rng = np.random.default_rng((film.seed, number, count, k))
                sound = impact_sound(subjects[k].material, subjects[k].size, film.sample_rate, rng)
                mix_in(out, gain * sound, start, 0.15 + 0.7 * min(max(hit.x / film.aspect, 0.0), 1.0))
            details = {
                "shot": number,
                "subjects": [stage.names[k] for k in struck],
                "materials": [subjects[k].material for k in struck],
                "against": hit.other if isinstance(hit.other, str) else stage.names[hit.other],
                "x": hit.x / film.aspect,
                "strength": hit.strength,
                "exact_time": first + hit.time,
            }
            events.append(_event(film, "sfx", f"{subjects[struck[0]].material} impact", start, sound.size, details))
    return events


def _event(film: Film, kind: str, label: str, start: int, length: int, details: dict[str, Any]) -> SoundEvent:
    rate = film.sample_rate
    frame = math.ceil(start * film.fps / rate)
    return SoundEvent(kind, label, start / rate, min(start + length, film.samples) / rate, frame, details)
