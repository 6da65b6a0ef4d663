"""What the tiny codecs share: made from a dataclass, kept as config.json, weights and latent statistics."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from model.checkpoint import load_into, save_module, stored_config
from model.codecs.latents import LatentNorm, LatentStatistics, weights_identity


class LightCodec(nn.Module):
    """A codec with `config`, latent statistics in `norm`, an identity, and a folder it is saved to."""

    config_class: ClassVar[type[Any]]

    def __init__(self, config: Any, statistics: LatentStatistics | None = None) -> None:
        super().__init__()
        self.config = config
        self.norm = LatentNorm(statistics or LatentStatistics.unmeasured(config.channels))

    @property
    def identity(self) -> str:
        """Changes with the configuration, the weights or the latent statistics."""
        return weights_identity({**asdict(self.config), **asdict(self.norm.statistics)}, self.state_dict())

    def save(self, directory: str | Path) -> None:
        """Write config.json, the weights and the latent statistics."""
        save_module(self, asdict(self.config), directory)
        self.norm.statistics.save(directory)

    @classmethod
    def without_weights(cls, directory: str | Path) -> Self:
        """As `load`, with the weights it starts from."""
        return cls(stored_config(cls.config_class, directory), LatentStatistics.load(directory))

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read what `save` wrote."""
        codec = cls.without_weights(directory)
        load_into(codec, directory)
        return codec.eval()
