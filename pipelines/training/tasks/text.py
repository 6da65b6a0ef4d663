"""Which of a sample's texts an example is told."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks.example import TaskContext


def caption(sample: LatentSample, context: TaskContext) -> Tensor:
    """(S, D): a caption in the batch's form, or the empty prompt for the share that is dropped.

    The form is drawn once for a batch, by the recipe's shares: texts of unequal length would be padding. Forms that the
    sample lacks leave their share to the others. Raises ValueError where it has none of them.
    """
    return _told(sample, context.settings.captions, context)


def caption_read_with(sample: LatentSample, kind: str, context: TaskContext) -> Tensor:
    """The same for a caption that was read together with a reference of that kind, in whatever form it has."""
    return _told(sample, {name: 1.0 for name in sample.texts if name.endswith(f"+{kind}")}, context)


def instruction(sample: LatentSample, context: TaskContext) -> Tensor:
    """(S, D): what to change, in words alone; or the empty prompt."""
    return _told(sample, {"instruction": 1.0}, context)


def _told(sample: LatentSample, shares: Mapping[str, float], context: TaskContext) -> Tensor:
    held = {name: share for name, share in shares.items() if share > 0 and name in sample.texts}
    if not held:
        found = ", ".join(sorted(sample.texts)) or "no texts"
        raise ValueError(f"{sample.key} has {found} but none of {', '.join(shares) or 'those read with its reference'}")
    if context.chance(context.settings.dropout.text):
        return context.null_text
    edges = torch.tensor(list(held.values()), dtype=torch.float64).cumsum(0)
    drawn = int(torch.searchsorted(edges, context.form * edges[-1], right=True))
    return sample.texts[list(held)[min(drawn, len(held) - 1)]]
