"""Upright JPEGs at even times: what embeddings, captions and overlay checks look at without decoding again."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.meters import Clock
from pipelines.curation.visual.timeline import SampledFrame
from pipelines.curation.visual.working_frame import WorkingFrame


class FrameSampler:
    """Keeps the first frame of every interval of its clock."""

    def __init__(self, clock: Clock, short_side: int, quality: int) -> None:
        self._clock = clock
        self._short_side, self._quality = short_side, quality
        self.samples: list[SampledFrame] = []

    def see(self, frame: WorkingFrame) -> None:
        if self._clock.strikes(frame.time_s):
            self.samples.append(SampledFrame(frame.time_s, frame.jpeg(self._short_side, self._quality)))


def read_rgb(sample: SampledFrame) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(sample.jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_luma(sample: SampledFrame) -> NDArray[np.uint8]:
    """(H, W), full range."""
    return cv2.cvtColor(read_rgb(sample), cv2.COLOR_RGB2GRAY)
