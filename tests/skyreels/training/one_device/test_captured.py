"""Steps as CUDA graphs against eager ones, over two micro-batches of two layouts."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from skyreels.training.config import EngineConfig, OptimizerConfig
from skyreels.training.events import StepDone
from skyreels.training.fit import fit
from skyreels.training.one_device.captured import layout_of, tensors_of
from skyreels.training.trainable import StepLoss


@dataclass(frozen=True)
class Rows:
    values: torch.Tensor
    scale: float = 1.0
    keys: tuple[str, ...] = ("a",)
    skipped: tuple[str, ...] = ()
    tokens: int = 1
    flops: float = 0.0

    def to(self, device):
        return Rows(self.values.to(device), self.scale, self.keys)


class Halves:
    """Learns to halve its input; every third step has more rows than the others, every fifth another scale."""

    slots = 2

    def build(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def initial_weights(self):
        return {}

    def batch(self, slot):
        generator = torch.Generator().manual_seed(2 * slot.step + slot.index)
        rows = torch.randn(6 if slot.step % 3 else 10, 8, generator=generator)
        return Rows(rows, 0.5 if slot.step % 5 else 0.25)

    def loss(self, module, batch):
        losses = (module(batch.values) - batch.scale * batch.values).square().mean(1)
        return StepLoss(losses.mean(), {"loss/rows": (losses.sum(), len(losses))})

    def held_out(self):
        return []

    def write_samples(self, module, step, folder):
        """None."""


def metrics(folder, **changes):
    events = []
    config = EngineConfig(
        steps=24, workers=0, precision="fp32", ema=0.9, optimizer=OptimizerConfig(learning_rate=0.01), **changes
    )
    fit(Halves, config, str(folder), events.append)
    return [(event.metrics["loss"], event.metrics["loss/rows"]) for event in events if isinstance(event, StepDone)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_steps_learn_what_eager_ones_learn(tmp_path):
    eager, captured = metrics(tmp_path / "eager"), metrics(tmp_path / "captured", captured=True, readers=2)
    torch.testing.assert_close(torch.tensor(captured), torch.tensor(eager), rtol=1e-4, atol=1e-6)
    assert eager[-1][0] < 0.7 * eager[0][0]


def test_on_a_cpu_the_setting_changes_nothing(tmp_path):
    assert metrics(tmp_path / "one") == metrics(tmp_path / "other", captured=True, readers=2)


def test_it_is_for_one_device():
    with pytest.raises(ValueError, match="captured=true and workers=2: a step is captured with workers=0 alone"):
        EngineConfig(steps=1, workers=2, captured=True)


def test_batches_are_alike_whose_shapes_and_numbers_are():
    one = Rows(torch.zeros(3, 8))
    assert layout_of(one) == layout_of(Rows(torch.ones(3, 8), keys=("b",), tokens=7))
    assert layout_of(one) != layout_of(Rows(torch.zeros(4, 8)))
    assert layout_of(one) != layout_of(Rows(torch.zeros(3, 8), scale=2.0))
    assert layout_of(one) != layout_of(Rows(torch.zeros(3, 8, dtype=torch.float64)))
    assert [tensor.shape for tensor in tensors_of({"b": (one, [torch.zeros(2)]), "a": torch.zeros(1)})] == [
        (1,),
        (3, 8),
        (2,),
    ]
