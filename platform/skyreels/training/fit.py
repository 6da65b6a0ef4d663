"""Run a `Trainable`: start or resume, follow what happens, end. On Ray Train, or on one device in this process."""

from collections.abc import Callable
from dataclasses import dataclass

from skyreels.storage import normalise
from skyreels.training.checkpoints import Checkpoints
from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import Event, Started
from skyreels.training.trainable import Trainable


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    """Steps that are done and in the last checkpoint."""
    stopped: bool
    """Asked to stop before the last step; the same call goes on from here."""
    checkpoint: str
    """Where the last checkpoint is; `open_checkpoint(run)` reads it."""
    restarts: int


def fit(
    make: Callable[[], Trainable],
    config: EngineConfig,
    run: str,
    observe: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Train what `make` makes, in the run folder `run` (a path that all nodes share, or s3://).

    Goes on from the newest sound checkpoint in the folder, at any number of workers; with 0 of them neither Ray nor
    DeepSpeed is needed. `observe` gets every event, one at a time. SIGTERM and the first SIGINT end the run after the
    step, with a checkpoint. Raises TrainingError.
    """
    run = normalise(run)
    checkpoints = Checkpoints.of(run)
    latest = checkpoints.latest()
    if latest is not None and latest >= config.steps:
        sound = checkpoints.newest_sound(observe)
        if sound is not None and sound >= config.steps:
            return Outcome(sound, False, checkpoints.location(sound), 0)
    starts = _Counter(observe)
    if config.workers:
        from skyreels.training.ray_run import fit_on_ray

        failure = fit_on_ray(make, config, run, starts)
    else:
        from skyreels.training.one_device.local import fit_here

        failure = fit_here(make, config, run, starts)
    if failure:
        raise TrainingError(failure)
    done = checkpoints.latest()
    if done is None:
        raise TrainingError(f"the run in {run} ended without a checkpoint")
    return Outcome(done, done < config.steps, checkpoints.location(done), max(starts.count - 1, 0))


class _Counter:
    """Passes events on and counts the starts among them."""

    def __init__(self, observe: Callable[[Event], None]) -> None:
        self._observe = observe
        self.count = 0

    def __call__(self, event: Event) -> None:
        self.count += isinstance(event, Started)
        self._observe(event)
