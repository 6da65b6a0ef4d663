"""One vector per clip from its sampled frames, and what can be read off it: an aesthetics score, a concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.embedding_backends.aesthetics import AestheticsHead
from pipelines.curation.embedding_backends.descriptor import Descriptor
from pipelines.curation.recipe import EmbeddingConfig

Frame = NDArray[np.uint8]
_TEMPERATURE = 100.0  # CLIP's logit scale after training


class EmbeddingBackend(Protocol):
    """Frames are (H, W, 3) RGB of any size. `identity` names the method and, by a digest, its weights."""

    identity: str

    def __call__(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """(D,) unit vector of one clip."""

    def many(self, clips: Sequence[Sequence[Frame]]) -> NDArray[np.float32]:
        """(N, D), the same for several clips at once."""


class TextBackend(Protocol):
    """A backend that puts texts into the space of the frames."""

    def of_texts(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Concept:
    label: str
    probability: float


def make_backend(config: EmbeddingConfig, device: str = "cpu") -> EmbeddingBackend:
    """The recipe's backend, its weights loaded."""
    if config.backend == "descriptor":
        return Descriptor()
    from pipelines.curation.embedding_backends.clip import OpenClip  # here: it takes seconds to import

    return OpenClip(config.model, config.pretrained, device)


def make_aesthetics(config: EmbeddingConfig) -> AestheticsHead | None:
    """The recipe's aesthetics head; None where the recipe names no weights, and then nothing is scored."""
    if not config.aesthetics:
        return None
    if config.backend == "descriptor":
        raise ValueError("embedding.aesthetics needs a CLIP embedding: set embedding.backend=open_clip")
    return AestheticsHead(config.aesthetics)


def zero_shot(
    backend: TextBackend, embeddings: NDArray[np.float32], labels: Sequence[str], template: str = "a photo of {}"
) -> list[Concept]:
    """The likeliest label of each (N, D) embedding, by the text tower (Radford et al. 2021)."""
    logits = _TEMPERATURE * embeddings @ backend.of_texts([template.format(label) for label in labels]).T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return [Concept(labels[best], float(row[best])) for row, best in zip(odds, odds.argmax(axis=1), strict=True)]
