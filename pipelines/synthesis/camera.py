"""The view of a shot over time."""

import math
from typing import NamedTuple

import numpy as np

from pipelines.synthesis.film import Camera


class View(NamedTuple):
    """World point at the middle of the frame, and magnification."""

    x: float
    y: float
    zoom: float


def view_at(camera: Camera, aspect: float, time: float, seconds: float) -> View:
    """What the camera sees `time` seconds into a shot of `seconds`."""
    middle, share = aspect / 2, min(max(time / seconds, 0.0), 1.0)
    eased = share * share * (3 - 2 * share)
    if camera.kind == "pan":
        along = camera.amount * (eased - 0.5)
        return View(middle + along * camera.direction[0], 0.5 + along * camera.direction[1], 1.0)
    if camera.kind == "push-in":
        return View(middle, 0.5, (1 + camera.amount) ** eased)
    if camera.kind == "zoom-out":
        return View(middle, 0.5, (1 + camera.amount) ** (1 - eased))
    if camera.kind == "shake":
        # Hand tremor: a few sines between 2 and 11 Hz.
        rng = np.random.default_rng((camera.seed, 0x5A))
        rates, phases = rng.uniform(2, 11, (2, 4)), rng.uniform(0, 2 * math.pi, (2, 4))
        dx, dy = camera.amount * np.sin(2 * math.pi * rates * time + phases).mean(axis=1)
        return View(middle + float(dx), 0.5 + float(dy), 1.0)
    return View(middle, 0.5, 1.0)


def reach(camera: Camera) -> tuple[float, float]:
    """(widest magnification, farthest distance in heights the view leaves the nominal frame by)."""
    zooms = camera.kind in ("push-in", "zoom-out")
    return (1 + camera.amount if zooms else 1.0), (0.0 if zooms else abs(camera.amount))
