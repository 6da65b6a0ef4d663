"""The flow-matching loss of a batch, and what to log of it (paper, section 3.1)."""

from torch import Tensor, nn

from model.network.inputs import AUDIO, VIDEO, JointOutputs
from pipelines.training.data.batch import Target, TrainingBatch
from skyreels.training.trainable import StepLoss

QUARTERS = 4
"""Of the timesteps, 0 = noise to 1 = data, that losses are logged by."""


def objective(module: nn.Module, batch: TrainingBatch) -> StepLoss:
    """Loss of video, audio and keyframes, 1:1:1, each the mean over samples of the mean over the sample's latents.

    Every sample counts the same, however much of it is kept, so the loss of a global batch does not depend on which
    slot a sample falls into.
    """
    outputs: JointOutputs = module(batch.inputs)
    total: Tensor | None = None
    sums: dict[str, tuple[Tensor | float, Tensor | float]] = {}
    for stream, target in batch.targets.items():
        losses = sample_losses(getattr(outputs, stream), target)
        total = losses.mean() if total is None else total + losses.mean()
        levels = batch.inputs.timesteps[:, AUDIO if stream == "audio" else VIDEO]
        sums |= _logged(batch.task, stream, losses.detach(), levels)
    if total is None:
        raise ValueError(f"task {batch.task} of {', '.join(batch.keys)} has no stream to learn")
    return StepLoss(total, sums)


def sample_losses(velocity: Tensor, target: Target) -> Tensor:
    """(B,) weighted mean squared errors, in float32."""
    error = (velocity.float() - target.velocity).square()
    weight = target.weight.expand_as(error)
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def _logged(task: str, stream: str, losses: Tensor, levels: Tensor) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """(sum, count) of samples: of the task, and by quarter of the timestep. Every quarter is there on every rank."""
    quarter = (levels * QUARTERS).long().clamp(max=QUARTERS - 1)
    sums: dict[str, tuple[Tensor | float, Tensor | float]] = {f"loss/{task}/{stream}": (losses.sum(), len(losses))}
    for number in range(QUARTERS):
        within = (quarter == number).to(losses)
        sums[f"loss/{stream}/t{number}"] = ((losses * within).sum(), within.sum())
    return sums
