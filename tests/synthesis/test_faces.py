import numpy as np
import pytest

from pipelines.synthesis.masks import masks_at
from pipelines.synthesis.pairs import make_pair
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render

RATE = 44100


def mouth_pixels(rendered, name):
    """Dark red pixels of the speaker, per frame."""
    counts = []
    for index, frame in enumerate(rendered.frames()):
        mask = masks_at(rendered.set, index).get(name, np.zeros(frame.shape[:2], bool))
        red, green, blue = (frame[..., k].astype(int) for k in range(3))
        counts.append(int((mask & (abs(red - 70) < 12) & (abs(green - 18) < 12) & (abs(blue - 24) < 12)).sum()))
    return np.array(counts, float)


@pytest.mark.parametrize("sound", ["speech", "singing"])
def test_the_mouth_opens_in_step_with_the_voice(sound):
    film = sample_film(4, size=(192, 192), seconds=5.0, sound=sound, camera="static")
    rendered = render(film)
    speaker = film.sound.lines[0].speaker
    mouth = mouth_pixels(rendered, f"shot0/{speaker}")
    step = RATE // 24
    padded = np.pad(rendered.audio[0], (step // 2, step))
    loud = np.array([np.sqrt(np.mean(padded[round(k * RATE / 24) :][:step] ** 2)) for k in range(film.frames)])
    match = {lag: np.corrcoef(mouth[6:-6], loud[6 + lag : len(loud) - 6 + lag])[0, 1] for lag in range(-6, 7)}
    assert max(match, key=match.get) == 0
    assert match[0] > 0.8


def test_only_films_with_voices_have_faces():
    cast = [subject for shot in sample_film(4, shots=2).shots for subject in shot.scene.subjects]
    assert not any(subject.speaks for subject in cast)
    film = sample_film(4, shots=2, sound="speech")
    for shot in film.shots:
        assert sum(subject.speaks for subject in shot.scene.subjects) == 1
    speakers = {subject.name for shot in film.shots for subject in shot.scene.subjects if subject.speaks}
    assert {line.speaker for line in film.sound.lines} <= speakers


def test_a_face_stays_within_its_subject_s_mask():
    film = sample_film(6, size=(96, 96), seconds=1.0, sound="speech")
    pair = make_pair(
        film, "delete", seed=next(s for s in range(20) if make_pair(film, "delete", s).target == _speaker(film))
    )
    for mask, old, new in zip(pair.masks(), render(pair.before).frames(), render(pair.after).frames(), strict=True):
        changed = (old != new).any(axis=-1)
        assert changed.any()
        assert not (changed & ~mask).any()


def test_captions_say_who_speaks():
    film = sample_film(4, size=(64, 64), seconds=3.0, sound="speech")
    long = render(film).annotation["captions"]["long"]
    voice = "low" if film.sound.lines[0].pitch < 160 else "high"
    assert f"The {_speaker(film).replace('-', ' ')}, in a {voice} voice, says in" in long


def _speaker(film):
    return next(subject.name for subject in film.shots[0].scene.subjects if subject.speaks)
