import numpy as np
import pytest

from pipelines.curation.audio.frames import audio_frames
from pipelines.curation.audio.scores import AudioScores, audio_scores, scores_for_span

RATE = 44100


def test_scores_are_finite_and_survive_the_manifest(sound):
    scores = audio_scores(sound("speech"), RATE)
    assert AudioScores.model_validate_json(scores.model_dump_json()) == scores
    flat = scores.flat()
    assert flat["class"] == "speech"
    assert flat["mos"] is None
    assert all(np.isfinite(value) for value in flat.values() if isinstance(value, float))
    assert flat["mean_volume_db"] == pytest.approx(-20, abs=0.1)
    assert scores.duration_s == pytest.approx(6.0)


def test_a_span_of_a_source_scores_like_its_cut_clip(sound):
    source = np.concatenate([sound("music", 0, 8.0), sound("speech", 1, 8.0)], axis=1)
    spans = scores_for_span(audio_frames(source, RATE, start_s=50.0), 58.0, 66.0)
    clip = audio_scores(source[:, 8 * RATE :], RATE)
    for name in (
        "mean_volume_db",
        "peak_db",
        "loudness_lufs",
        "snr_db",
        "bandwidth_hz",
        "silence_ratio",
        "beat_strength",
    ):
        assert getattr(spans, name) == pytest.approx(getattr(clip, name), rel=0.05, abs=0.3), name
    assert spans.sound_class == clip.sound_class
    assert np.array(spans.speech) == pytest.approx(np.array(clip.speech), abs=0.15)
    assert spans.clipping_ratio is None
    assert clip.clipping_ratio is not None


def test_a_span_past_the_end_is_refused(sound):
    frames = audio_frames(sound("speech"), RATE)
    with pytest.raises(ValueError, match=r"ends at 6\.00 s"):
        scores_for_span(frames, 8.0, 9.0)


def test_silence_has_scores_too():
    scores = audio_scores(np.zeros((2, 3 * RATE), np.float32), RATE)
    assert (scores.sound_class, scores.silence_ratio, scores.mean_volume_db) == ("silence", 1.0, -120.0)
    assert (scores.snr_db, scores.speech, scores.onsets_s) == (None, [], [])


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 96000])
def test_short_sounds_at_any_rate_have_scores(seconds, rate):
    noise = np.random.default_rng(0).normal(0, 0.1, (1, round(seconds * rate))).astype(np.float32)
    scores = audio_scores(noise, rate)
    assert scores.mean_volume_db == pytest.approx(-20, abs=1)
    assert scores.bandwidth_hz == rate / 2
