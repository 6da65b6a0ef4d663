"""How fast sound is scored, in times real time on one core; the baseline is one plain spectrogram of the same sound.

OMP_NUM_THREADS=1 python benchmarks/audio.py --seconds 120
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.signal import spectrogram

from pipelines.curation.audio.classify import classify
from pipelines.curation.audio.clipping import clipping_ratio
from pipelines.curation.audio.frames import audio_frames
from pipelines.curation.audio.levels import true_peak_db
from pipelines.curation.audio.scores import audio_scores, scores_for_span
from skyreels.media.motion_events import MotionEvents
from skyreels.media.sync import measure_sync

RATE = 44100
FPS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the sound")
    seconds = parser.parse_args().seconds
    samples = busy_sound(seconds)
    frames = audio_frames(samples, RATE)
    pictures = np.random.default_rng(0).integers(0, 255, (round(seconds * FPS), 36, 64), dtype=np.uint8)
    curve = watch(pictures).curve()
    stages: dict[str, Callable[[], object]] = {
        "baseline: one spectrogram": lambda: spectrogram(samples.mean(axis=0), RATE, nperseg=2048, noverlap=2048 - 882),
        "feature tracks": lambda: audio_frames(samples, RATE),
        "true peak": lambda: true_peak_db(samples),
        "clipping": lambda: clipping_ratio(samples),
        "class": lambda: classify(frames),
        "all scores of a clip": lambda: audio_scores(samples, RATE),
        "scores of a span, from tracks": lambda: scores_for_span(frames, 0.0, seconds),
        "motion events, 64 x 36 at 24 fps": lambda: watch(pictures),
        "sync, from curves": lambda: measure_sync(curve.times, curve.values, frames.onset_times_s, frames.onset, FPS),
    }
    print(f"{seconds:.0f} s of 44.1 kHz stereo; CPU time")
    baseline = 0.0
    for name, stage in stages.items():
        spent = cpu_seconds(stage)
        baseline = baseline or spent
        print(f"{name:34} {seconds / spent:9.0f} x real time   {spent / baseline:6.2f} of the baseline's time")


def busy_sound(seconds: float) -> np.ndarray:
    """(2, N) full-range sound with beats, so that no stage has an easy time."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * hz * t) for hz in (110, 220, 277, 330))
    wave = 0.1 * tone * (1 + np.sin(2 * np.pi * 2 * t)) + rng.normal(0, 0.05, (2, len(t)))
    return np.clip(wave, -0.8, 0.8).astype(np.float32)


def watch(pictures: np.ndarray) -> MotionEvents:
    events = MotionEvents()
    for index, picture in enumerate(pictures):
        events.update(picture, index / FPS)
    return events


def cpu_seconds(stage: Callable[[], object]) -> float:
    """The less of two runs."""
    spent = []
    for _ in range(2):
        started = time.process_time()
        stage()
        spent.append(time.process_time() - started)
    return min(spent)


if __name__ == "__main__":
    main()
