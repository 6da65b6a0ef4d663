"""Which of a sample's texts an example is told."""

import torch
from torch import Tensor

from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks.example import Scene


def caption(sample: LatentSample, scene: Scene, reads: str | None = None) -> Tensor:
    """(S, D): a caption in a form drawn by the recipe's shares, or the empty prompt for the share that is dropped.

    `reads` names the references that the caption was read together with. Forms that the sample lacks leave their
    share to the others. Raises ValueError where it has none of them.
    """
    suffix = f"+{reads}" if reads else ""
    shares = {form: share for form, share in scene.settings.captions.items() if f"{form}{suffix}" in sample.texts}
    return _told(sample, shares, suffix, scene)


def instruction(sample: LatentSample, scene: Scene) -> Tensor:
    """(S, D): what to change, in words alone; or the empty prompt."""
    return _told(sample, {"instruction": 1.0}, "", scene)


def _told(sample: LatentSample, shares: dict[str, float], suffix: str, scene: Scene) -> Tensor:
    weights = torch.tensor(list(shares.values()))
    if not (weights > 0).any():
        wanted = ", ".join(f"{form}{suffix}" for form in scene.settings.captions)
        raise ValueError(f"{sample.key} has the texts {', '.join(sorted(sample.texts))} but none of {wanted}")
    dropped = scene.chance(scene.settings.dropout.text)
    form = list(shares)[int(torch.multinomial(weights, 1, generator=scene.generator))]
    return scene.null_text if dropped else sample.texts[f"{form}{suffix}"]
