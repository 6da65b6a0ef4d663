"""Which steps may change the weights."""

import math
import statistics
from collections import deque
from collections.abc import Iterable

from skyreels.training.config import GuardConfig
from skyreels.training.errors import TrainingError

_WINDOW = 64  # gradient norms that the median is taken over
_ENOUGH = 8  # before this many are seen, no norm counts as a spike


class Guard:
    """Judges steps by what all ranks saw, so all ranks judge alike. Its state goes into checkpoints (`norms`)."""

    def __init__(self, config: GuardConfig, norms: Iterable[float] = ()) -> None:
        self._config = config
        self._norms = deque(norms, maxlen=_WINDOW)
        self._in_a_row = 0

    @property
    def norms(self) -> list[float]:
        return list(self._norms)

    def judge(self, finite_loss: bool, norm: float) -> str | None:
        """Why a step must change nothing, or None. A good step's norm joins the running median."""
        reason = self._fault(finite_loss, norm)
        if reason is None:
            self._norms.append(norm)
            self._in_a_row = 0
        else:
            self._in_a_row += 1
        return reason

    def _fault(self, finite_loss: bool, norm: float) -> str | None:
        if not finite_loss:
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if len(self._norms) >= _ENOUGH:
            median = statistics.median(self._norms)
            if norm > self._config.spike_factor * median:
                return f"the gradient norm {norm:.3g} is {norm / median:.0f} times the running median {median:.3g}"
        return None

    def check(self, step: int, reason: str, keys: Iterable[str]) -> None:
        """Raise when too many steps in a row were skipped."""
        if self._in_a_row >= self._config.max_skipped:
            shown = ", ".join(list(keys)[:8])
            raise TrainingError(
                f"step {step}: {self._in_a_row} steps in a row were skipped; in the last one {reason}. Its samples: "
                f"{shown}. Lower the learning rate, look at these samples, or raise guard.max_skipped or "
                "guard.spike_factor"
            )


class UnreadableCount:
    """Samples that could not be read, over all ranks, against the share that is tolerated."""

    def __init__(self, config: GuardConfig) -> None:
        self._allowed = config.max_unreadable
        self.samples = 0
        self.unreadable = 0

    def add(self, samples: int, unreadable: int) -> None:
        self.samples += samples
        self.unreadable += unreadable

    def check(self, step: int, reasons: Iterable[str]) -> None:
        """Raise when more than the tolerated share, and more than one sample, could not be read."""
        if self.unreadable > max(self._allowed * self.samples, 1):
            raise TrainingError(
                f"step {step}: {self.unreadable} of {self.samples} samples could not be read, more than "
                f"guard.max_unreadable = {self._allowed:g} of them: {'; '.join(list(reasons)[:4])}. Repair the data, "
                "or raise guard.max_unreadable"
            )
