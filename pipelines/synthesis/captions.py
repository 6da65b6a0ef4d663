"""Short, long and structured captions, written from the description of the film.

The structured form is the one that curation gives real clips (`pipelines.dataset.captions`), so that training
reads one language. A film of several shots has one structured caption, whose fields tell the shots in order of time;
`shot_captions` has one for each shot. `caption_parts` is what curation cuts to its clips: the shots, and what is read
and heard with its times.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from pipelines.dataset import captions as schema
from pipelines.dataset.caption_parts import CaptionParts, ShotCaption, Tag, TimedLine, listed, tagged_lines
from pipelines.synthesis.film import NARRATOR, Film, Overlay, Scene, Shot, Subject
from pipelines.synthesis.soundtrack import SoundEvent

MOTION_WORDS = {
    "still": "stays still",
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
SHORT_MOTION_WORDS = {"still": "rests", "circular": "circles", "zigzag": "zigzags", "bouncing": "bounces"}
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


def captions(film: Film, events: list[SoundEvent]) -> dict[str, str]:
    """{"short", "long", "structured"} of a film."""
    return {
        **{form: text for form, text in caption_parts(film, events).forms().items() if form != "structured"},
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


def caption_parts(film: Film, events: Iterable[SoundEvent]) -> CaptionParts:
    """What holds throughout each shot, and what is read and heard with its times."""
    edges = [float(frame / film.fps) for frame in film.shot_frames]
    shots = [
        ShotCaption(
            start_s=start,
            end_s=end,
            short=_short(shot.scene),
            long=_shot_prose(shot),
            structured=structured([shot], (), ()).render(),
        )
        for shot, start, end in zip(film.shots, edges, edges[1:], strict=False)
    ]
    return CaptionParts(shots=shots, timed=_timed(film, events), language="en")


def still_parts(film: Film, time_s: float) -> CaptionParts:
    """Of the picture at a time: nothing moves in it, and nothing is heard."""
    edges = [float(frame / film.fps) for frame in film.shot_frames]
    scene = film.shots[max(n for n, start in enumerate(edges[:-1]) if start <= time_s)].scene
    told = structured([Shot(scene, 0.0)], (), ())
    cast = [subject.model_copy(update={"action": None}) for subject in told.subjects]
    still = ShotCaption(
        short=f"{_seen(scene)}.",
        long=f"{_seen(scene)}. The look is {STYLE_WORDS[scene.style]}.",
        structured=told.model_copy(update={"subjects": cast, "camera_motion": None}).render(),
    )
    read = [line.model_copy(update={"start_s": 0.0, "end_s": 0.0}) for line in _timed(film, ())
            if line.start_s <= time_s < line.end_s]  # fmt: skip
    return CaptionParts(shots=[still], timed=read, language="en")


def sound_parts(film: Film, events: Sequence[SoundEvent]) -> CaptionParts:
    """Of the sound alone: who speaks is not seen."""
    events = [replace(e, details={**e.details, "speaker": NARRATOR}) if "speaker" in e.details else e for e in events]
    heard = next(
        (event for kind in ("dialogue", "singing", "bgm", "sfx") for event in events if event.kind == kind), None
    )
    text = "A quiet recording." if heard is None else _heard_in_short(heard)
    shot = ShotCaption(short=text, long="Sound without a picture.", structured="")
    return CaptionParts(shots=[shot], timed=_timed(replace(film, overlays=()), events), language="en")


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


def _visible(scene: Scene) -> list[Subject]:
    return [subject for subject in scene.subjects if not subject.hidden]


def _setting(scene: Scene) -> str:
    first, second = scene.background.colours
    kind = scene.background.kind
    return f"a flat {first} background" if kind == "flat" else f"a {kind} background of {first} and {second}"


def _short(scene: Scene) -> str:
    """All that a viewer would miss, in the fewest words: what moves how, before what."""
    seen = [_named(subject) + ("" if subject.speaks else f" {_short_deed(subject)}") for subject in _visible(scene)]
    setting = _setting(scene).removeprefix("a ")
    text = f"{listed(seen)}, {setting}" if seen else setting
    return text[0].upper() + text[1:] + "."


def _seen(scene: Scene) -> str:
    """Subjects and setting, as the opening of a sentence."""
    seen = [phrase(subject) for subject in _visible(scene)]
    text = f"{listed(seen)} before {_setting(scene)}" if seen else _setting(scene)
    return text[0].upper() + text[1:]


def _named(subject: Subject) -> str:
    """ "a striped red circle": without the material, which is heard and not seen."""
    return phrase(replace(subject, material="")).replace("  ", " ")  # type: ignore[arg-type]


def _short_deed(subject: Subject) -> str:
    direction = _direction(subject)
    return f"moves {direction}" if direction else SHORT_MOTION_WORDS[subject.motion.kind]


def _shot_prose(shot: Shot) -> str:
    return (
        f"{_action(shot)} The setting is {_setting(shot.scene)}; the look is {STYLE_WORDS[shot.scene.style]}. "
        + (CAMERA_WORDS[shot.camera.kind])
    )


def _action(shot: Shot) -> str:
    sentences = [f"{phrase(subject)} {_deed(subject)}." for subject in _visible(shot.scene)]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) or "Nothing moves."


def _timed(film: Film, events: Iterable[SoundEvent]) -> list[TimedLine]:
    """What is read and heard, with its times."""
    end = float(film.frames / film.fps)
    read = [
        TimedLine(start_s=o.start, end_s=end if o.end is None else o.end, tag="text", text=o.text,
                  sentence=f'One reads "{o.text}".')
        for o in film.overlays
        if o.text
    ]  # fmt: skip
    return [*read, *(line for event in events for line in _heard(event))]


def _heard(event: SoundEvent) -> list[TimedLine]:
    """An event under its tag and in a sentence; an impact of two says as well that they collide."""

    def line(tag: Tag | None, text: str, sentence: str, brief: str | None) -> TimedLine:
        return TimedLine(start_s=event.start, end_s=event.end, tag=tag, text=text, sentence=sentence, brief=brief)

    match event.kind:
        case "sfx":
            met = [name.rpartition("/")[2].replace("-", " ") for name in event.details.get("subjects", ())]
            impact = [line("sfx", event.label, f"One hears {event.label} sounds.", f"{event.label}s")]
            collision = f"The {' and the '.join(met)} collide."
            at = event.start
            return impact + [TimedLine(start_s=at, end_s=at, text=collision, sentence=collision)] * (len(met) > 1)
        case "dialogue":
            said = f'{_who(event)} says in {LANGUAGES[event.details["language"]]}: "{event.label}".'
            return [line("dialogue", _voiced(event), said, "speech")]
        case "singing":
            return [line("singing", _voiced(event), f'{_who(event)} sings: "{event.label}".', "singing")]
        case "bgm":
            return [line("bgm", _music(event), f"In the background, {event.label}.", "music")]
        case _:
            room = event.label == "room"
            heard = "There is the sound of room tone." if room else f"{event.label.capitalize()} is heard."
            return [line(None, event.label, heard, None if room else event.label)]


def _heard_in_short(event: SoundEvent) -> str:
    if event.kind in ("dialogue", "singing"):
        voice, language = _who(event).rstrip(","), LANGUAGES[event.details["language"]]
        return f"{voice} {'speaks' if event.kind == 'dialogue' else 'sings in'} {language}."
    return f"{event.label.capitalize()}." if event.kind == "bgm" else f"{event.label.capitalize()} sounds."


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
    if subject.speaks:
        return "faces the camera and speaks"
    direction = _direction(subject)
    return f"glides {direction}" if direction else MOTION_WORDS[subject.motion.kind]


def _direction(subject: Subject) -> str | None:
    """Where a subject on a straight path goes, as the viewer sees it; None for other motions."""
    x, y = subject.motion.velocity
    if subject.motion.kind != "linear":
        return None
    if abs(x) >= abs(y):
        return "right" if x >= 0 else "left"
    return "down" if y > 0 else "up"


def _camera(shot: Shot) -> str:
    return CAMERA_WORDS[shot.camera.kind].removeprefix("The camera ").removesuffix(".")


def _environment(scene: Scene) -> str:
    return _setting(scene) + ("" if scene.style == "natural" else f", {STYLE_WORDS[scene.style]}")


def _effects(events: Sequence[SoundEvent], start_s: float) -> list[str]:
    """A line for each kind of sound, with its times, in the order in which they are first heard."""
    at = [(event.label, event.start - start_s) for event in events]
    return tagged_lines(TimedLine(start_s=time, end_s=time, tag="sfx", text=label) for label, time in at)["sfx"]


def _voiced(event: SoundEvent) -> str:
    """Who, in which language, what: the form that the schema asks for."""
    language = LANGUAGES[event.details["language"]]
    return f'{_who(event).rstrip(",").lower()}, in {language}: "{event.label}"'


def _music(event: SoundEvent) -> str:
    return f"{event.label}, {event.details['tempo']:.0f} beats per minute"
