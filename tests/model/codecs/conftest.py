import pytest
import torch


@pytest.fixture
def moving_square():
    """(1, 3, 17, 64, 64): a bright square crossing a dark gradient."""
    frames = torch.linspace(-0.8, 0.0, 64).view(1, 1, 1, 64, 1).repeat(1, 3, 17, 1, 64)
    for frame in range(17):
        frames[:, 0, frame, 20:36, 8 + 2 * frame : 24 + 2 * frame] = 0.9
    return frames


@pytest.fixture
def chirps():
    """(1, 2, 44100): decaying tones of rising pitch, louder on the left."""
    time = torch.arange(44100) / 44100
    phase = 2 * torch.pi * (300 * time + 400 * time.square())
    mono = 0.5 * torch.sin(phase) * torch.exp(-6 * (time % 0.25))
    return torch.stack([mono, 0.4 * mono])[None]
