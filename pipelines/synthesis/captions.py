"""Short, long and structured captions, written from the description of the film.

The structured form is the one that curation gives real clips (`pipelines.curation.captions.schema`), so that training
reads one language. A film of several shots has one structured caption, whose fields tell the shots in order of time;
`shot_captions` has one for each shot.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from pipelines.curation.captions import schema
from pipelines.synthesis.film import NARRATOR, Film, Overlay, Scene, Shot, Subject
from pipelines.synthesis.soundtrack import SoundEvent

MOTION_WORDS = {
    "still": "stays still",
    "linear": "glides across the frame",
    "circular": "moves in a circle",
    "zigzag": "zigzags up and down",
    "bouncing": "bounces off the floor and the walls",
}
CAMERA_WORDS = {
    "static": "The camera is static.",
    "pan": "The camera pans.",
    "push-in": "The camera pushes in slowly.",
    "zoom-out": "The camera zooms out slowly.",
    "shake": "The camera shakes as if held by hand.",
}
STYLE_WORDS = {
    "natural": "soft studio light",
    "palette": "poster-like, with a limited palette",
    "outline": "a cartoon with dark outlines",
    "pixelated": "pixel art",
    "noir": "high-contrast black and white",
}
LIGHTING = {"natural": "soft studio light", "noir": "hard light, high in contrast"}
LANGUAGES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "ru": "Russian",
    "cmn": "Mandarin",
    "ja": "Japanese",
    "ko": "Korean",
}


_MOST_SUBJECTS = 12
_LONGEST = 500  # characters of one field; each shot has its own caption beside
_MOST_TIMES = 8  # of one sound; more of them are counted


def captions(film: Film, events: list[SoundEvent]) -> dict[str, str]:
    """{"short", "long", "structured"} of a film."""
    return {
        "short": _short(film),
        "long": " ".join([*(_shot_prose(film, n) for n in range(len(film.shots))), *_sound_prose(events)]),
        "structured": structured(film.shots, film.overlays, events).render(),
    }


def shot_captions(film: Film, events: Sequence[SoundEvent]) -> list[str]:
    """The structured caption of each shot, rendered; times count from the start of the shot."""
    edges = [float(frame / film.fps) for frame in film.shot_frames]
    found = []
    for shot, start, end in zip(film.shots, edges, edges[1:], strict=False):
        shown = [o for o in film.overlays if o.start < end and (o.end is None or o.end > start)]
        heard = [e for e in events if e.start < end and (e.start >= start or (e.kind != "sfx" and e.end > start))]
        found.append(structured([shot], shown, heard, start).render())
    return found


def structured(
    shots: Sequence[Shot], overlays: Sequence[Overlay], events: Sequence[SoundEvent], start_s: float = 0.0
) -> schema.StructuredCaption:
    """These shots and what is read and heard in them; times in words count from `start_s`."""
    cast = {phrase(subject): subject for shot in shots for subject in _visible(shot.scene)}
    return schema.StructuredCaption(
        subjects=[
            schema.Subject(
                type=f"shape, {subject.shape}",
                appearance=words,
                action=_told(_action_of(words, shot) for shot in shots),
                is_main=number == 0,
            )
            for number, (words, subject) in enumerate(list(cast.items())[:_MOST_SUBJECTS])
        ],
        camera_motion=f"The camera {_told(_camera(shot) for shot in shots)}.",
        environment=_told(_environment(shot.scene) for shot in shots),
        lighting=_told(LIGHTING.get(shot.scene.style) for shot in shots),
        text=[overlay.text for overlay in overlays if overlay.text],
        sfx=_effects([event for event in events if event.kind == "sfx"], start_s),
        dialogue=[_voiced(event) for event in events if event.kind == "dialogue"],
        singing=[_voiced(event) for event in events if event.kind == "singing"],
        bgm=[_music(event) for event in events if event.kind == "bgm"],
    )


def phrase(subject: Subject) -> str:
    """A noun phrase: "a striped red rubber circle"."""
    texture = {"plain": "", "stripes": "striped ", "dots": "dotted ", "checker": "checkered ", "marble": "marbled "}
    words = f"{texture[subject.texture]}{subject.colour} {subject.material} {subject.shape}"
    return ("an " if words[0] in "aeiou" else "a ") + words


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _visible(scene: Scene) -> list[Subject]:
    return [subject for subject in scene.subjects if not subject.hidden]


def _setting(scene: Scene) -> str:
    first, second = scene.background.colours
    kind = scene.background.kind
    return f"a flat {first} background" if kind == "flat" else f"a {kind} background of {first} and {second}"


def _short(film: Film) -> str:
    opening = film.shots[0].scene
    seen = [phrase(subject) for subject in _visible(opening)]
    text = f"{_joined(seen)} before {_setting(opening)}" if seen else _setting(opening)
    more = f", in {len(film.shots)} shots" if len(film.shots) > 1 else ""
    return text[0].upper() + text[1:] + more + "."


def _shot_prose(film: Film, number: int) -> str:
    shot = film.shots[number]
    opening = f"Shot {number + 1}: " if len(film.shots) > 1 else ""
    return (
        opening
        + f"{_action(shot)} The setting is {_setting(shot.scene)}; the look is {STYLE_WORDS[shot.scene.style]}. "
        + (CAMERA_WORDS[shot.camera.kind])
    )


def _action(shot: Shot) -> str:
    sentences = [f"{phrase(subject)} {_deed(subject)}." for subject in _visible(shot.scene)]
    if sum(subject.motion.kind == "bouncing" for subject in _visible(shot.scene)) > 1:
        sentences.append("they collide with each other.")
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) or "Nothing moves."


def _sound_prose(events: list[SoundEvent]) -> list[str]:
    hits = sorted({event.label for event in events if event.kind == "sfx"})
    prose = [f"One hears {_joined(hits)} sounds."] if hits else []
    for event in events:
        if event.kind == "dialogue":
            prose.append(f'{_who(event)} says in {LANGUAGES[event.details["language"]]}: "{event.label}".')
        elif event.kind == "singing":
            prose.append(f'{_who(event)} sings: "{event.label}".')
        elif event.kind == "bgm":
            prose.append(f"In the background, {event.label}.")
        elif event.kind == "ambience":
            prose.append(
                f"There is the sound of {event.label} tone."
                if event.label == "room"
                else f"{event.label.capitalize()} is heard."
            )
    return prose


def _who(event: SoundEvent) -> str:
    speaker, voice = event.details["speaker"], "low" if event.details["pitch"] < 160 else "high"
    return f"A {voice} voice" if speaker == NARRATOR else f"The {speaker.replace('-', ' ')}, in a {voice} voice,"


def _told(words: Iterable[str | None]) -> str | None:
    """What the shots have to say, in order of time and without saying it again."""
    told = [text for text, _ in groupby(words) if text]
    whole = ", then ".join(told)
    return (whole if len(whole) <= _LONGEST else f"{told[0]}, then {len(told) - 1} others, shot by shot") or None


def _action_of(words: str, shot: Shot) -> str | None:
    """What the subject of that description does in a shot; None where it is not in it."""
    found = (subject for subject in _visible(shot.scene) if phrase(subject) == words)
    return next((_deed(subject) for subject in found), None)


def _deed(subject: Subject) -> str:
    return "faces the camera and speaks" if subject.speaks else MOTION_WORDS[subject.motion.kind]


def _camera(shot: Shot) -> str:
    return CAMERA_WORDS[shot.camera.kind].removeprefix("The camera ").removesuffix(".")


def _environment(scene: Scene) -> str:
    return _setting(scene) + ("" if scene.style == "natural" else f", {STYLE_WORDS[scene.style]}")


def _effects(events: Sequence[SoundEvent], start_s: float) -> list[str]:
    """A line for each kind of sound, with its times, in the order in which they are first heard."""
    times: dict[str, list[float]] = {}
    for event in events:
        times.setdefault(event.label, []).append(event.start - start_s)
    return [f"{label} {_when(at)}" for label, at in times.items()]


def _when(times: Sequence[float]) -> str:
    if len(times) > _MOST_TIMES:
        return f"{len(times)} times from {times[0]:.2f} to {times[-1]:.2f} s"
    return f"at {_joined([f'{time:.2f}' for time in times])} s"


def _voiced(event: SoundEvent) -> str:
    """Who, in which language, what: the form that the schema asks for."""
    language = LANGUAGES[event.details["language"]]
    return f'{_who(event).rstrip(",").lower()}, in {language}: "{event.label}"'


def _music(event: SoundEvent) -> str:
    return f"{event.label}, {event.details['tempo']:.0f} beats per minute"
