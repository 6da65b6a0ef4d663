"""One vector per clip from its sampled frames, and an aesthetics score that is read off it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.embeddings.aesthetics import AestheticsHead
from pipelines.curation.embeddings.descriptor import Descriptor
from pipelines.curation.recipe import EmbeddingConfig

Frame = NDArray[np.uint8]


class EmbeddingBackend(Protocol):
    """Frames are (H, W, 3) RGB of any size. `identity` names the method and, by a digest, its weights."""

    identity: str

    @property
    def draft_side(self) -> int | None:
        """Pictures may be decoded at a half, a quarter or an eighth while their short side keeps this; None: never."""

    def __call__(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """(D,) unit vector of one clip."""

    def many(self, clips: Sequence[Sequence[Frame]]) -> NDArray[np.float32]:
        """(N, D), the same for several clips at once."""


def make_backend(config: EmbeddingConfig, device: str = "cpu") -> EmbeddingBackend:
    """The recipe's backend, its weights loaded."""
    if config.backend == "descriptor":
        return Descriptor()
    from pipelines.curation.embeddings.clip import OpenClip  # here: it takes seconds to import

    return OpenClip(config.model, config.pretrained, device)


def make_aesthetics(config: EmbeddingConfig) -> AestheticsHead | None:
    """The recipe's aesthetics head; None where the recipe names no weights, and then nothing is scored."""
    if not config.aesthetics:
        return None
    if config.backend == "descriptor":
        raise ValueError("embedding.aesthetics needs a CLIP embedding: set embedding.backend=open_clip")
    return AestheticsHead(config.aesthetics)
