"""Validation samples of a run."""

import torch

from skyreels.leftovers import scratch_folder
from skyreels.storage import Storage
from skyreels.training.one_device.whole import Held
from skyreels.training.trainable import Trainable


def write_samples(trainable: Trainable, sharded: Held, step: int, run: Storage, writes: bool) -> tuple[str, ...]:
    """Let the Trainable make samples, on all ranks; where `writes`, publish them in `run` and return their locations.

    They are made in a scratch folder, so that each appears whole, on disk or on S3.
    """
    with scratch_folder("samples") as scratch, torch.no_grad():
        folder = scratch if writes else None
        sharded.module.eval()
        sharded.run(lambda module: trainable.write_samples(module, step, folder))
        sharded.module.train()
        if folder is None:
            return ()
        made = {f"samples/step-{step:08d}/{path.relative_to(folder)}": path for path in sorted(folder.rglob("*"))}
        files = {name: path for name, path in made.items() if path.is_file()}
        for name, path in files.items():
            run.upload(path, name)
        return tuple(run.location(name) for name in files)
