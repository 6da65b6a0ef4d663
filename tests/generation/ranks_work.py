"""What `test_ranks.py` runs on every rank."""

from pathlib import Path

import torch

from model.generation.prepared import Prepared
from model.generation.steps import Progress
from model.generation.wire import from_bytes
from model.generator import Generator
from model.sampling.sampler import Cancelled
from pipelines.generation.ranks import Voted, share
from skyreels.training.ulysses import UlyssesRanks


def make_and_stop(ranks: UlyssesRanks, device: str, folder: str, call: bytes, output: str) -> None:
    """Latents of both stages as this rank has them; then a call that the second rank's callback stops."""
    generator, prepared = Generator.from_pretrained(folder, device), from_bytes(Prepared, call)
    share(generator, ranks)
    tokens, done = [], []
    generator.components.transformer.layers[0].register_forward_pre_hook(
        lambda _, given: tokens.append(given[0].media.shape[1])
    )
    base = generator.sample_base(prepared)
    torch.save({"tokens": tokens[0], **generator.refine(prepared, base)}, f"{output}/{ranks.rank}.pt")

    def stop(progress: Progress) -> None:
        done.append(progress.step.index)
        if ranks.rank == 1:
            raise Cancelled("enough")

    try:
        generator.sample_base(prepared, callback_on_step_end=Voted(ranks, stop))
    except Cancelled as error:
        (Path(output) / f"{ranks.rank}.txt").write_text(f"{done} {error}")


def fail_alone(ranks: UlyssesRanks, device: str) -> None:
    """The second rank fails, while the first one waits for it."""
    if ranks.rank == 1:
        raise ValueError("no such tone")
    ranks.any(False)
