"""A Trainable small enough for tests, which can be told to go wrong. Loaded by conftest; workers get it by value."""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from skyreels.training.stop import stop_requested
from skyreels.training.trainable import StepLoss

SLOTS = 4
IDLE = ("torch._inductor.compile_fx", "mlflow")
"""What DeepSpeed would import of its own: a compiler for an optimizer, and MLflow for a tuner, that nobody uses."""


@dataclass
class ToyBatch:
    where: tuple
    x: torch.Tensor
    keys: list
    skipped: list
    tokens: int = 6
    flops: float = 1e3

    def to(self, device):
        return self


class ToyModule(nn.Module):
    """Sizes that no number of ranks divides, a frozen layer and a buffer."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("scale", torch.full((1,), 0.5))
        self.inner = nn.Linear(7, width)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.outer = nn.Linear(width, 5)

    def forward(self, x):
        x = x.to(self.inner.weight.dtype)
        return self.outer(torch.tanh(self.frozen(torch.tanh(self.inner(x))))) * self.scale


def toy_weights(width):
    generator = torch.Generator().manual_seed(3)
    shapes = {name: tensor.shape for name, tensor in ToyModule(width).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def toy_batch(step, index):
    generator = torch.Generator().manual_seed(1000 * step + index)
    return torch.randn(6, 7, generator=generator)


def toy_loss(module, x):
    return (module(x).float() - x[:, :5].sin()).pow(2).mean()


@dataclass
class Toy:
    width: int = 13
    nan_at: tuple = ()
    """(step, slot) whose loss is not finite."""
    unreadable_at: tuple = ()
    kill_at: tuple | None = None
    """(step, slot): the worker that runs it dies, once."""
    sigterm_at: tuple | None = None
    """(step, slot): the worker that runs it is told to end."""
    kill_in_write_of: int | None = None
    """Step of the checkpoint during whose writing the second rank dies, once."""
    scratch: str = ""
    hold_at: int | None = None
    """The step that is not done before the run is asked to stop."""
    pause_s: float = 0.0
    slots: int = field(default=SLOTS)
    held: int = 1
    """Batches that are held out."""

    def build(self):
        if self.kill_in_write_of is not None:
            self._die_in_write()
        return ToyModule(self.width)

    def initial_weights(self):
        return toy_weights(self.width)

    def batch(self, slot):
        where = (slot.step, slot.index)
        skipped = [f"broken-{slot.step}: truncated"] if where in self.unreadable_at else []
        return ToyBatch(where, toy_batch(*where), [f"key-{slot.step}-{slot.index}"], skipped)

    def loss(self, module, batch):
        where = batch.where
        time.sleep(self.pause_s)
        while where[0] == self.hold_at and os.environ["RANK"] == "0" and not stop_requested():
            time.sleep(0.01)
        if where == self.kill_at and self._once("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if where == self.sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = toy_loss(module, batch.x)
        if where in self.nan_at:
            loss = loss * float("nan")
        return StepLoss(loss, {"loss/toy": (loss.detach() * len(batch.x), len(batch.x))})

    def held_out(self):
        return [ToyBatch((-1, 0), toy_batch(-1, 0), ["held-0", "held-1"], []) for _ in range(self.held)]

    def write_samples(self, module, step, folder):
        out = module(torch.ones(1, 7))
        if folder is not None:
            (folder / "out.txt").write_text(repr(out.tolist()))
            (folder / "idle.txt").write_text(repr([name for name in IDLE if name in sys.modules]))

    def _die_in_write(self):
        from skyreels.training import snapshot

        whole = snapshot.save_file

        def half(tensors, path):
            if f"step-{self.kill_in_write_of:08d}" in str(path) and os.environ["RANK"] == "1" and self._once("write"):
                whole(tensors, path)
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            whole(tensors, path)

        snapshot.save_file = half

    def _once(self, what):
        try:
            (Path(self.scratch) / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
