"""Shot changes by a network on thumbnails: its windows over the shared frames, and what its probabilities mean.

Nothing here knows which network it is; `transnet.py`, which needs torch, is imported when one is loaded.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.shots import keep_cuts
from pipelines.curation.visual.timeline import Cut, Floats, Transition
from pipelines.curation.visual.transitions import runs
from pipelines.curation.visual.working_frame import WorkingFrame
from skyreels.media.errors import MediaError

WINDOW, MARGIN = 100, 25  # frames, as TransNet V2 was published: the margins only lend context
Predict = Callable[[NDArray[np.uint8]], Floats]  # (100, 27, 48, 3) RGB -> (100, 2): the one frame, all frames


@dataclass(frozen=True)
class LearnedDetector:
    """A network, and the probability from which on it is believed.

    A change of up to `hard_frames` is a hard cut: networks smear one over a neighbour or two.
    """

    predict: Predict
    threshold: float = 0.5
    hard_frames: int = 3


@lru_cache(maxsize=1)
def load_detector(weights: str, threshold: float) -> LearnedDetector:
    """TransNet V2 from a local path, on one CPU thread; kept, since a process asks for it with every source."""
    import torch  # here: the decoding child is lighter and starts sooner without it

    from pipelines.curation.visual import transnet

    torch.set_num_threads(1)  # there is a child per worker: more threads would only fight each other
    try:
        return LearnedDetector(transnet.load(weights).predict, threshold)
    except (OSError, ValueError) as error:
        remedy = "Set extract.shots.weights to a TransNet V2 checkpoint that every worker can read."
        raise MediaError("shot_weights", remedy, str(error)) from error


class ShotMeter:
    """Probabilities of every frame, (N, 2), in windows that overlap; keeps at most one window of thumbnails.

    Before the first and behind the last frame the picture stands still.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._kept: list[NDArray[np.uint8]] = []
        self._values = array("f")
        self._seen = 0

    def see(self, frame: WorkingFrame) -> None:
        self.push(frame.shot_thumb)

    def push(self, thumb: NDArray[np.uint8]) -> None:
        """(27, 48, 3) RGB."""
        if not self._seen:
            self._kept = [thumb] * MARGIN
        self._seen += 1
        self._extend(thumb)

    def probabilities(self) -> Floats:
        """To be asked once, after the last frame."""
        while len(self._values) < 2 * self._seen:
            self._extend(self._kept[-1])
        return np.array(self._values, np.float32).reshape(-1, 2)[: self._seen]

    def _extend(self, thumb: NDArray[np.uint8]) -> None:
        self._kept.append(thumb)
        if len(self._kept) == WINDOW:
            self._values.extend(self._predict(np.stack(self._kept))[MARGIN:-MARGIN].ravel())
            del self._kept[: WINDOW - 2 * MARGIN]


def find_learned_shots(
    probabilities: Floats,
    time_s: NDArray[np.float64],
    measured: list[Transition],
    detector: LearnedDetector,
    min_shot_s: float,
) -> tuple[list[Cut], list[Transition]]:
    """Hard cuts and transitions in time order, of (N, 2) probabilities and the fades and dissolves that were measured.

    Transitions are the union of both: what overlaps is one, from the first start to the last end, with the measured
    kind. Hard cuts are the network's alone, without those inside a transition of either.
    """
    cuts, gradual = changes(probabilities, time_s, detector)
    transitions = unite(measured, gradual)
    return keep_cuts(cuts, time_s, transitions, min_shot_s), transitions


def changes(
    probabilities: Floats, time_s: NDArray[np.float64], detector: LearnedDetector
) -> tuple[list[Cut], list[Transition]]:
    """Runs of the one-frame output, each grown by the run of the all-frames output that it touches.

    Short ones are hard cuts right behind their most probable frame, which is the old shot's last; longer ones are
    gradual changes until the first frame of the new shot alone.
    """
    one, both = probabilities[:, 0], probabilities.max(axis=1)
    cuts, gradual = [], []
    for first, last in runs(both >= detector.threshold):
        peak = first + int(one[first : last + 1].argmax())
        strength = float(one[peak])
        if strength < detector.threshold:
            continue
        if last - first >= detector.hard_frames:
            end = min(last + 1, len(time_s) - 1)
            gradual.append(Transition("gradual", float(time_s[first]), float(time_s[end]), strength))
        elif peak + 1 < len(time_s):
            cuts.append(Cut(peak + 1, float(time_s[peak + 1]), strength))
    return cuts, gradual


def unite(measured: list[Transition], gradual: list[Transition]) -> list[Transition]:
    """In time order and without overlaps; the kind and strength are those of the first measured one that it holds."""
    ordered = sorted([*measured, *gradual], key=lambda transition: transition.start_s)
    united: list[Transition] = []
    for found in ordered:
        if not united or found.start_s >= united[-1].end_s:
            united.append(found)
            continue
        last = united.pop()
        named = found if last.kind == "gradual" else last
        united.append(Transition(named.kind, last.start_s, max(last.end_s, found.end_s), named.strength))
    return united
