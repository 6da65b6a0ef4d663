"""Planted defects are found, and clean sounds pass, at the thresholds that the recipes use."""

import io

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from pipelines.curation.audio.bandwidth import bandwidth
from pipelines.curation.audio.clipping import clipping_ratio
from pipelines.curation.audio.frames import audio_frames
from pipelines.curation.audio.noise import snr_db
from pipelines.curation.audio.vad import dropout_s, silence_ratio
from pipelines.synthesis import conditions

RATE = 44100
CLEAN = [(kind, seed) for kind in ("speech", "singing", "music", "impacts") for seed in range(4)]
MOST_CLIPPED, LEAST_SNR_DB, LEAST_BANDWIDTH_HZ, MOST_SILENCE = 0.002, 10.0, 6000.0, 0.5


def through_aac(samples: np.ndarray) -> np.ndarray:
    """Encoded at 128 kbit/s and decoded again."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def noisy(samples: np.ndarray, snr: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, samples.shape[1])
    return (samples + noise * samples.std() / 10 ** (snr / 20)).astype(np.float32)


def overdriven(samples: np.ndarray, share: float) -> np.ndarray:
    """Cut off at the level that `share` of the samples reach, then turned down to half scale."""
    ceiling = np.quantile(np.abs(samples), 1 - share)
    return (np.clip(samples, -ceiling, ceiling) * 0.5 / ceiling).astype(np.float32)


def telephone(samples: np.ndarray) -> np.ndarray:
    """Through a sample rate of 8 kHz and back."""
    narrow = resample_poly(samples, 80, 441, axis=1)
    return resample_poly(narrow, 441, 80, axis=1)[:, : samples.shape[1]].astype(np.float32)


def test_clean_sounds_pass(sound):
    alarms = []
    for kind, seed in CLEAN:
        samples = sound(kind, seed)
        frames = audio_frames(samples, RATE)
        alarms += [(kind, seed, "clipping")] * (clipping_ratio(samples) > MOST_CLIPPED)
        alarms += [(kind, seed, "noise")] * (snr_db(frames) < LEAST_SNR_DB)
        alarms += [(kind, seed, "bandwidth")] * (bandwidth(frames).effective_hz < LEAST_BANDWIDTH_HZ)
        alarms += [(kind, seed, "silence")] * (kind != "impacts" and silence_ratio(frames) > MOST_SILENCE)
    assert len(alarms) <= 0.05 * 4 * len(CLEAN), alarms


@pytest.mark.parametrize(("kind", "seed"), CLEAN[::2])
def test_noise_is_found_and_measured(sound, kind, seed):
    for planted in (6.0, 0.0):
        heard = snr_db(audio_frames(noisy(sound(kind, seed), planted), RATE))
        assert heard < LEAST_SNR_DB
        assert heard == pytest.approx(planted, abs=3.0)


def test_gated_noise_is_not_hidden_by_digital_silence(sound):
    loud = noisy(sound("speech"), 3.0)
    assert snr_db(audio_frames(np.concatenate([loud, np.zeros_like(loud)], axis=1), RATE)) < LEAST_SNR_DB


def test_white_noise_has_no_signal():
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 5 * RATE))
    assert snr_db(audio_frames(noise, RATE)) < 0
    assert snr_db(audio_frames(np.zeros((1, RATE)), RATE)) is None


@pytest.mark.parametrize(("kind", "seed"), [pair for pair in CLEAN[::2] if pair[0] != "impacts"])
def test_clipping_is_found_and_counted(sound, kind, seed):
    clipped = overdriven(sound(kind, seed), 0.02)
    exactly = np.mean(np.abs(clipped) >= np.abs(clipped).max() * 0.9999)
    assert clipping_ratio(clipped) > MOST_CLIPPED
    assert clipping_ratio(clipped) == pytest.approx(exactly, rel=0.5)


@pytest.mark.parametrize("kind", ["speech", "singing", "music"])
def test_clipping_is_found_after_a_lossy_codec(sound, kind):
    assert clipping_ratio(through_aac(overdriven(sound(kind), 0.03))) > MOST_CLIPPED
    assert clipping_ratio(through_aac(sound(kind))) < MOST_CLIPPED


def test_smooth_crests_are_not_clipping():
    t = np.arange(RATE) / RATE
    assert clipping_ratio(np.stack([np.sin(2 * np.pi * hz * t) for hz in (40, 100, 997, 3000)])) == 0
    assert clipping_ratio(np.zeros((2, RATE), np.float32)) == 0
    square = np.sign(np.sin(2 * np.pi * 200 * t))[None]
    assert clipping_ratio(square) > 0.9


@pytest.mark.parametrize(("kind", "seed"), CLEAN[::2])
def test_low_bandwidth_is_found_by_its_cliff(sound, kind, seed):
    found = bandwidth(audio_frames(telephone(sound(kind, seed)), RATE))
    assert found.effective_hz == pytest.approx(4000, abs=1000)
    assert found.cliff_db > 15


@pytest.mark.parametrize("cutoff", [3000, 6000, 12000])
def test_bandwidth_of_noise_is_where_it_was_cut(cutoff):
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 0.1, 4 * RATE))
    spectrum[np.fft.rfftfreq(4 * RATE, 1 / RATE) > cutoff] = 0
    assert bandwidth(audio_frames(np.fft.irfft(spectrum)[None], RATE)).effective_hz == pytest.approx(cutoff, abs=250)


def test_silence_is_measured(sound):
    speech = sound("speech")
    half = np.concatenate([speech, np.zeros_like(speech)], axis=1)
    assert silence_ratio(audio_frames(half, RATE)) == pytest.approx(
        0.5 + silence_ratio(audio_frames(speech, RATE)) / 2, abs=0.02
    )
    assert silence_ratio(audio_frames(np.zeros((2, RATE)), RATE)) == 1


def test_a_track_that_breaks_off_is_told_from_a_pause(sound):
    speech = sound("speech")
    paused = audio_frames(conditions.pause(speech, 0.3, 0.4), RATE)
    assert silence_ratio(paused) > 0.3
    assert dropout_s(paused) <= dropout_s(audio_frames(speech, RATE)) < 0.5  # between its words there is nothing
    broken = speech.copy()
    broken[:, 2 * RATE : 4 * RATE + RATE // 2] = 0.0
    assert dropout_s(audio_frames(broken, RATE)) == pytest.approx(2.5, abs=0.2)
    assert dropout_s(audio_frames(np.zeros((2, 3 * RATE)), RATE)) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("partials", [np.arange(300, 600, 50), np.arange(40, 4000, 55), (65.4, 82.4, 98.0, 130.8)])
def test_a_dense_chord_is_no_noise_and_noise_over_it_is(partials):
    """Partials 50 Hz apart and less, as in a low chord or a full mix."""
    t = np.arange(4 * RATE) / RATE
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, len(partials))
    chord = sum(np.sin(2 * np.pi * hz * t + phase) for hz, phase in zip(partials, phases, strict=True))[None]
    clean = (0.9 * chord / np.abs(chord).max()).astype(np.float32)
    assert snr_db(audio_frames(clean, RATE)) > LEAST_SNR_DB
    assert snr_db(audio_frames(noisy(clean, 3.0), RATE)) < LEAST_SNR_DB
