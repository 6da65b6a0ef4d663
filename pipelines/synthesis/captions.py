"""Short, long and structured captions, written from the description of the film.

The structured form has a fixed order (subjects, action, setting, camera, style, then sound) and marks what is read or
heard with the tags <text> <sfx> <dialogue> <singing> <bgm> (SkyReels-V4, section on captions).
"""

from pipelines.synthesis.film import NARRATOR, Film, Scene, Shot, Subject
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


def captions(film: Film, events: list[SoundEvent]) -> dict[str, str]:
    """{"short", "long", "structured"} of a film."""
    return {
        "short": _short(film),
        "long": " ".join([*(_shot_prose(film, n) for n in range(len(film.shots))), *_sound_prose(events)]),
        "structured": _structured(film, events),
    }


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
    sentences = [
        f"{phrase(subject)} {'faces the camera and speaks' if subject.speaks else MOTION_WORDS[subject.motion.kind]}."
        for subject in _visible(shot.scene)
    ]
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


def _structured(film: Film, events: list[SoundEvent]) -> str:
    lines = []
    for number, shot in enumerate(film.shots):
        first, end = (float(film.shot_frames[n] / film.fps) for n in (number, number + 1))
        seen = _joined([phrase(subject) for subject in _visible(shot.scene)] or ["none"])
        lines.append(f"Shot {number + 1} ({first:.2f}-{end:.2f} s, {shot.transition if number else 'opening'})")
        lines.append(f"Subjects: {seen}.")
        lines.append(f"Action: {_action(shot)}")
        lines.append(f"Setting: {_setting(shot.scene)}.")
        lines.append(f"Camera: {CAMERA_WORDS[shot.camera.kind]}")
        lines.append(f"Style: {STYLE_WORDS[shot.scene.style]}.")
    lines += [f"<text>{overlay.text}</text>" for overlay in film.overlays if overlay.text]
    for kind, tag in (("sfx", "sfx"), ("dialogue", "dialogue"), ("singing", "singing"), ("bgm", "bgm")):
        for event in events:
            if event.kind == kind:
                lines.append(
                    f"<{tag}>{event.label} at {event.start:.2f} s</{tag}>"
                    if kind == "sfx"
                    else f"<{tag}>{event.label}</{tag}>"
                )
    return "\n".join(lines)
