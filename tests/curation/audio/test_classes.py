from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pipelines.curation.audio.classify import class_segments, classify
from pipelines.curation.audio.frames import audio_frames
from pipelines.curation.audio.rhythm import beat, onset_times
from pipelines.curation.audio.vad import active_intervals, covered_ratio, speech_intervals

RATE = 44100
LABELS = {
    "speech": "speech",
    "singing": "singing",
    "music": "music",
    "impacts": "sound_effect",
    "ambience": "sound_effect",
}


def frames_of(samples: np.ndarray, start_s: float = 0.0):
    return audio_frames(samples, RATE, start_s)


@pytest.mark.parametrize("kind", LABELS)
def test_class_of_plain_sounds(sound, kind):
    found = Counter(classify(frames_of(sound(kind, seed))).label for seed in range(5))
    assert found[LABELS[kind]] >= 4, found


def test_beliefs_add_up_and_the_label_is_the_strongest(sound):
    for kind in LABELS:
        found = classify(frames_of(sound(kind)))
        assert sum(found.scores.values()) == pytest.approx(1)
        assert found.scores[found.label] == found.confidence == max(found.scores.values())


def test_silence_is_its_own_class():
    assert classify(frames_of(np.zeros((2, 3 * RATE), np.float32))).label == "silence"


def test_a_long_sound_is_cut_where_its_class_changes(sound):
    joined = np.concatenate([sound("speech", 1, 12.0), sound("music", 1, 12.0)], axis=1)
    segments = class_segments(frames_of(joined, start_s=100.0))
    assert segments[0].start_s == 100.0
    assert segments[-1].end_s == pytest.approx(124.0, abs=0.1)
    assert all(a.end_s == b.start_s for a, b in pairwise(segments))
    assert (segments[0].label, segments[-1].label) == ("speech", "music")
    assert segments[-1].start_s == pytest.approx(112.0, abs=4.5)


def test_speech_is_found_between_silence_and_music(sound):
    parts = [
        np.zeros((2, 2 * RATE), np.float32),
        sound("speech", 2, 4.0),
        np.zeros((2, 2 * RATE)),
        sound("music", 0, 4.0),
    ]
    frames = frames_of(np.concatenate(parts, axis=1).astype(np.float32))
    speech = speech_intervals(frames)
    inside = [(max(a, 2.0), min(b, 6.0)) for a, b in speech if a < 6.0 and b > 2.0]
    assert covered_ratio(inside, 4.0) > 0.75
    assert covered_ratio(speech, 12.0) - covered_ratio(inside, 12.0) < 0.1
    assert all(a < b <= c for (a, b), (c, _) in zip(speech, [*speech[1:], (99.0, 99.0)], strict=True))


def test_speech_is_found_under_noise(sound):
    speech = np.concatenate([sound("speech", 3, 4.0), np.zeros((2, 4 * RATE), np.float32)], axis=1)
    noise = np.random.default_rng(0).normal(0, 0.02, speech.shape)
    found = speech_intervals(frames_of((speech + noise).astype(np.float32)))
    assert covered_ratio([(a, min(b, 4.0)) for a, b in found if a < 4.0], 4.0) > 0.6
    assert all(b < 4.5 for _, b in found)


def test_activity_follows_the_sound_on_the_sources_clock():
    burst = np.random.default_rng(0).normal(0, 0.1, (1, RATE))
    gap = np.zeros((1, RATE))
    found = active_intervals(frames_of(np.concatenate([gap, burst, gap], axis=1), start_s=5.0))
    assert found == [(pytest.approx(6.0, abs=0.05), pytest.approx(7.0, abs=0.05))]


@pytest.mark.parametrize("bpm", [75, 100, 120, 150])
def test_tempo_of_a_click_track(bpm):
    rng, clicks = np.random.default_rng(0), np.zeros((1, 8 * RATE))
    for start in np.arange(0.2, 7.9, 60 / bpm):
        at = round(start * RATE)
        room = clicks[0, at : at + 2000]
        room += (rng.normal(0, 0.3, 2000) * np.exp(-np.arange(2000) / 300))[: len(room)]
    found = beat(frames_of(clicks))
    assert found.tempo_bpm == pytest.approx(bpm, rel=0.02)
    assert found.strength > 0.5


def test_onsets_are_where_sounds_start():
    rng, samples = np.random.default_rng(1), np.zeros((1, 6 * RATE))
    starts = [0.5, 0.9, 2.0, 2.15, 4.321, 5.5]
    for start in starts:
        at = round(start * RATE)
        samples[0, at : at + 8000] += rng.normal(0, 0.2, 8000) * np.exp(-np.arange(8000) / 1500)
    assert onset_times(frames_of(samples)) == pytest.approx(starts, abs=0.015)


def test_steady_noise_has_no_onsets_and_no_beat():
    frames = frames_of(np.random.default_rng(0).normal(0, 0.1, (1, 6 * RATE)))
    assert len(onset_times(frames)) <= 1
    assert beat(frames).strength < 0.25
