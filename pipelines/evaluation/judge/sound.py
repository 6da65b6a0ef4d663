"""What is heard: when something strikes, and which of the world's sounds it is."""

import functools

import numpy as np
from scipy.signal import stft

from pipelines.synthesis.film import Ambience, Music
from pipelines.synthesis.plain import MATERIALS
from pipelines.synthesis.sound import impact_sound, mix_in, play_ambience, play_music

SOUNDS = ("wood", "metal", "glass", "music", "rain", "wind", "room")
WINDOW, HOP = 1024, 256  # samples at 44.1 kHz; scaled with the rate
BANDS = 28
FLOOR_DB = -75.0
RISE_DB = 7.0  # mean over the bands from which a rise is an onset
RISE_S = 0.03
CUT_OFF_S = 0.02  # before the end of the file, which cuts a sound off with a click
APART_S = 0.09
EXAMPLES = 20  # rendered per sound, to learn what it is like
DEVELOPMENT_SEED = 800_000_000


def onsets(audio: np.ndarray, sample_rate: int) -> tuple[float, ...]:
    """Seconds at which (C, N) sound rises all over its spectrum."""
    levels, step = _levels(audio, sample_rate)
    lag = max(1, round(RISE_S / step))
    if levels.shape[1] <= lag:
        return ()
    levels = np.maximum(levels, max(FLOOR_DB, float(levels.max()) - 55.0))
    # What stands before the beginning is silence: a hit at once is heard as well.
    padded = np.concatenate([np.repeat(levels[:, :1], lag, axis=1), levels], axis=1)
    rise = np.maximum(padded[:, lag:] - padded[:, :-lag], 0.0).mean(0)
    near = max(1, round(APART_S / step))
    found: list[float] = []
    for place in np.flatnonzero(rise[: len(rise) - round(CUT_OFF_S / step)] >= RISE_DB):
        around = rise[max(0, place - near) : place + near + 1]
        if rise[place] == around.max() and (not found or place * step - found[-1] > APART_S / 2):
            start = place
            while start > 0 and rise[start - 1] > rise[place] / 2 and place - start < near:
                start -= 1
            found.append(float(start * step))
    return tuple(found)


def onset_curve(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """(times in seconds, rise in dB) of any sound."""
    levels, step = _levels(audio, sample_rate)
    levels = np.maximum(levels, float(levels.max()) - 55.0)
    rise = np.maximum(np.diff(levels, axis=1, prepend=levels[:, :1]), 0.0).mean(0)
    return np.arange(len(rise)) * step, rise


def sound_class(audio: np.ndarray, sample_rate: int) -> str:
    """The one of SOUNDS that (C, N) is most like."""
    weights, biases = _classifier(round(audio.shape[1] / sample_rate, 1))
    return SOUNDS[int(np.argmax(weights @ _features(audio, sample_rate) + biases))]


def _levels(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
    """((BANDS, frames) dB, seconds between frames): bands of equal width on a logarithmic axis, 60 Hz to 16 kHz."""
    scale = sample_rate / 44100
    window, hop = round(WINDOW * scale), round(HOP * scale)
    mono = audio.mean(0)
    if mono.size < window:
        mono = np.pad(mono, (0, window - mono.size))
    frequencies, _, spectrum = stft(mono, sample_rate, nperseg=window, noverlap=window - hop, padded=False)
    power = np.abs(spectrum) ** 2
    edges = np.geomspace(60.0, 16000.0, BANDS + 1)
    which = np.clip(np.searchsorted(edges, frequencies) - 1, 0, BANDS - 1)
    inside = (frequencies >= edges[0]) & (frequencies <= edges[-1])
    sums = np.zeros((BANDS, power.shape[1]))
    np.add.at(sums, which[inside], power[inside])
    used = np.unique(which[inside])  # the lowest bands may hold no bin
    return 10 * np.log10(sums[used] + 10 ** (FLOOR_DB / 10)), hop / sample_rate


def _features(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    levels, _ = _levels(audio, sample_rate)
    loudest = levels[:, np.argsort(levels.mean(0))[-max(1, levels.shape[1] // 6) :]].mean(1)
    whole = levels.mean(1)
    over_time = levels.mean(0)
    spread = [over_time.std(), np.percentile(over_time, 95), np.percentile(over_time, 20), over_time.mean()]
    return np.concatenate([loudest - loudest.mean(), whole - whole.mean(), spread])


@functools.lru_cache(maxsize=4)
def _classifier(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """(weights, biases) of a linear discriminant, learned from sounds rendered here, none of them an evaluation's."""
    rate = 44100
    rng = np.random.default_rng(DEVELOPMENT_SEED)
    examples = {name: [_features(_render(name, seconds, rate, rng), rate) for _ in range(EXAMPLES)] for name in SOUNDS}
    means = np.stack([np.mean(rows, axis=0) for rows in examples.values()])
    rest = np.concatenate([np.array(rows) - mean for rows, mean in zip(examples.values(), means, strict=True)])
    spread = rest.T @ rest / len(rest)
    spread += np.eye(len(spread)) * np.trace(spread) / len(spread)  # shrunk: what is made differs in ways unseen here
    weights = np.linalg.solve(spread, means.T).T
    return weights, -0.5 * (weights * means).sum(1)


def _render(name: str, seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """One sound of the plain world, a little louder or softer, with a little noise."""
    samples, seed = round(seconds * rate), int(rng.integers(1 << 31))
    out = 0.002 * play_ambience(Ambience("room"), samples, rate, seed)
    if name == "music":
        music = Music(key=int(rng.integers(50, 62)), tempo=float(rng.integers(90, 130)))
        out = 0.5 * play_music(music, samples, rate, seed)
    elif name in ("rain", "wind"):
        out = {"rain": 0.05, "wind": 0.1}[name] * play_ambience(Ambience(name), samples, rate, seed)  # type: ignore[arg-type]
    elif name in MATERIALS:
        for share in (0.42, 0.9)[: int(rng.integers(1, 3))]:
            sound = impact_sound(name, float(rng.uniform(0.17, 0.21)), rate, rng)  # type: ignore[arg-type]
            mix_in(out, float(rng.uniform(0.5, 0.9)) * sound, round(share * rng.uniform(0.85, 1.0) * samples), 0.5)
    noise = 10 ** (rng.uniform(-80, -60) / 20) * rng.standard_normal(out.shape)
    return (out + noise) * 10 ** (rng.uniform(-3, 3) / 20)
