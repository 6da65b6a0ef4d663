import pytest
import torch
from torch import Tensor

from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

VIDEO = VideoCodecSpec(channels=3)
AUDIO = AudioCodecSpec(channels=2, sample_rate=16_000, hop=400)


class LeakyCodec:
    """Stands in for a causal codec at its worst: each latent is the mean of its cell plus every earlier one, mixed in
    space with its neighbours. So whatever pixel reaches it shows in later latents."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.calls.append(tuple(pixels.shape))
        latents = VIDEO.latent_frames(pixels.shape[2])
        cells = [pixels[:, :, list(VIDEO.frame_span(latent))].mean(2) for latent in range(latents)]
        pooled = torch.nn.functional.avg_pool2d(torch.stack(cells, 2).flatten(0, 1), 8)
        mixed = torch.nn.functional.avg_pool2d(pooled, 3, stride=1, padding=1)
        return mixed.unflatten(0, pixels.shape[:2]).cumsum(2)


@pytest.fixture
def codec() -> LeakyCodec:
    return LeakyCodec()


@pytest.fixture
def clip() -> ClipShape:
    return ClipShape(17, 16, 32, 48, VIDEO, AUDIO)
