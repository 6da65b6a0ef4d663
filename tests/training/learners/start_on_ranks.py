"""What `test_warm_start.py` runs on two ranks: `python start_on_ranks.py FOLDER`, with a transformer in FOLDER/video.

Each rank starts under ZeRO-3 from the weights in pieces, compares what it holds with its part of the whole tensors, and
writes how many elements it read.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from model.checkpoint import StoredState, load_state, stored_config
from model.config import TransformerConfig
from model.network.mmdit import MMDiT
from pipelines.training.learners.warm_start import StartWeights, warm_start
from skyreels.training.checkpoints import Checkpoints
from skyreels.training.config import EngineConfig
from skyreels.training.partition import bounds
from skyreels.training.resume import start
from skyreels.training.zero import load_settings, start_deepspeed

WORLD = 2


class Learner:
    """As much of a Trainable as a start asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, stored_config(TransformerConfig, folder)

    def build(self) -> nn.Module:
        return MMDiT(self.config)

    def initial_weights(self) -> StartWeights:
        return warm_start(self.config, [self.folder])


def counted(reads: Callable[..., Tensor], read: list[int]) -> Callable[..., Tensor]:
    """The same, and how many elements that were."""

    def call(*arguments: object) -> Tensor:
        found = reads(*arguments)
        read.append(found.numel())
        return found

    return call


def run(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD))
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=120), world_size=WORLD, rank=rank)
    start_deepspeed()
    read: list[int] = []
    for name in ("rows", "__getitem__"):
        setattr(StoredState, name, counted(getattr(StoredState, name), read))
    config = EngineConfig(steps=1, workers=WORLD, precision="fp32")
    checkpoints = Checkpoints.of(str(folder / "run"))
    settings = load_settings(config)
    state = start(Learner(folder / "video"), config, settings, 1, checkpoints, print, torch.device("cpu"))  # type: ignore[arg-type]
    whole = load_state(folder / "video")
    places, flats = state.sharded.places(), state.sharded.flat_weights
    for name, tensor in whole.items():
        first, last = bounds(tensor.numel(), rank, WORLD)
        place = places[name]
        held = flats[place.group].narrow(0, place.offset, last - first)
        assert torch.equal(held, tensor.reshape(-1)[first:last]), name
    (folder / f"read-{rank}").write_text(f"{sum(read)} {sum(tensor.numel() for tensor in whole.values())}")
    dist.barrier()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.start_processes(run, (Path(sys.argv[1]),), nprocs=WORLD, start_method="fork")
