"""TransNet V2: a learned detector of shot changes on 48 x 27 thumbnails (Soucek and Lokoc 2020, arXiv 2008.04838).

Modules carry the names of the authors' PyTorch port, so that its state dict, saved as safetensors, is one of ours:

    SDDCNN.<block>.DDCNN.<cell>.Conv3D_<dilation>.layers.0  spatial (1, 3, 3), .1 temporal (3, 1, 1)
    SDDCNN.<block>.DDCNN.<cell>.bn                          over the four dilations side by side
    frame_sim_layer.projection, frame_sim_layer.fc, color_hist_layer.fc
    fc1, cls_layer1 (the one frame of a transition), cls_layer2 (all its frames)

No weights come with the project. Published ones are converted by their owner; `save` writes what `load` reads.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

HEIGHT, WIDTH = 27, 48
_DILATIONS = (1, 2, 4, 8)
_HISTOGRAM_BINS = 512  # 3 bits of each colour


@dataclass(frozen=True)
class TransNetConfig:
    """The paper's F, L, S and D, and the sizes of the two similarity branches; the defaults are the published size."""

    filters: int = 16  # F, of each dilation in the first block; doubled by every further one
    blocks: int = 3  # L, each halves height and width
    cells: int = 2  # S, in a block
    dense: int = 1024  # D
    similarity: int = 128  # outputs of each branch
    window: int = 101  # frames that a frame is compared with, itself in the middle

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number above 0")
        if self.window % 2 == 0:
            raise ValueError(f"window is {self.window}: give an odd number, the frame itself is in the middle")
        if HEIGHT >> self.blocks == 0:
            raise ValueError(f"blocks is {self.blocks}: thumbnails of {HEIGHT} rows can be halved 4 times at most")


class TransNetV2(nn.Module):
    """Logits of (B, T, 27, 48, 3) RGB uint8 frames: a transition's one frame and all its frames, (B, T) each.

    The one frame is the last of the old shot at a hard cut, and the middle of a gradual change.
    """

    def __init__(self, config: TransNetConfig = TransNetConfig()) -> None:
        super().__init__()
        self.config = config
        widths = [config.filters * 2**level for level in range(config.blocks)]
        inputs = [3, *(4 * width for width in widths[:-1])]
        self.SDDCNN = nn.ModuleList(_Block(i, w, config.cells) for i, w in zip(inputs, widths, strict=True))
        self.frame_sim_layer = _FrameSimilarity(4 * sum(widths), config.similarity, config.window)
        self.color_hist_layer = _ColourHistograms(config.similarity, config.window)
        pooled = (HEIGHT >> config.blocks) * (WIDTH >> config.blocks) * 4 * widths[-1]
        self.fc1 = nn.Linear(2 * config.similarity + pooled, config.dense)
        self.dropout = nn.Dropout(0.5)
        self.cls_layer1 = nn.Linear(config.dense, 1)
        self.cls_layer2 = nn.Linear(config.dense, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        if frames.ndim != 5 or frames.shape[2:] != (HEIGHT, WIDTH, 3) or frames.dtype != torch.uint8:
            raise ValueError(f"frames are {tuple(frames.shape)} {frames.dtype}: give (B, T, 27, 48, 3) uint8")
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        levels = []
        for block in self.SDDCNN:
            x = block(x)
            levels.append(x.mean((3, 4)))
        seen = x.permute(0, 2, 3, 4, 1).flatten(2)  # (B, T, H'W'C)
        alike = self.frame_sim_layer(torch.cat(levels, 1).transpose(1, 2))
        x = torch.cat([self.color_hist_layer(frames), alike, seen], 2)
        x = self.dropout(F.relu(self.fc1(x)))
        return self.cls_layer1(x).squeeze(-1), self.cls_layer2(x).squeeze(-1)

    @torch.inference_mode()
    def predict(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (T, 2) of (T, 27, 48, 3) RGB: the one frame, all frames."""
        logits = self(torch.from_numpy(frames)[None].to(self.fc1.weight.device))
        return torch.stack(logits, -1)[0].sigmoid().cpu().numpy()

    def save(self, path: str | Path) -> None:
        """One safetensors file with the config in its metadata."""
        save_file(self.state_dict(), path, metadata={"config": json.dumps(asdict(self.config))})


def load(path: str | Path, device: str = "cpu") -> TransNetV2:
    """The network of a folder with `config.json` and `model.safetensors`, or of one file made by `save`.

    Raises `ValueError` where that is not a checkpoint of this network, and `FileNotFoundError`.
    """
    path = Path(path)
    weights = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(weights, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            described = (file.metadata() or {}).get("config")
    except SafetensorError as error:
        raise ValueError(f"{weights} is no safetensors file ({error}): save the state dict as one") from error
    if path.is_dir():
        described = (path / "config.json").read_text("utf-8")
    if described is None:
        raise ValueError(f"{weights} has no `config` in its metadata: put it there, or use a folder with a config.json")
    model = TransNetV2(_read_config(described, weights))
    _check(tensors, model.state_dict(), weights)
    model.load_state_dict(tensors)
    return model.to(device).eval()


def _read_config(text: str, where: Path) -> TransNetConfig:
    try:
        given: dict[str, Any] = dict(json.loads(text))
        unknown = sorted(given.keys() - {field.name for field in fields(TransNetConfig)})
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not in it; there are {list(asdict(TransNetConfig()))}")
        return TransNetConfig(**given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the config of {where} cannot be used: {error}") from error


def _check(given: dict[str, Tensor], wanted: dict[str, Tensor], where: Path) -> None:
    """Every name and shape, all in one message."""
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - given.keys())]
    wrong += [f"{name} is not part of it" for name in sorted(given.keys() - wanted.keys())]
    wrong += [
        f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{where} does not fit its config: {'; '.join(wrong[:5])}{more}")


class _Block(nn.Module):
    """SDDCNN: cells in a row, the first one's output added to the last one's, then height and width halved."""

    def __init__(self, channels: int, filters: int, cells: int) -> None:
        super().__init__()
        inputs = [channels] + [4 * filters] * (cells - 1)
        self.DDCNN = nn.ModuleList(_Cell(each, filters) for each in inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, 4 * filters, T, H // 2, W // 2)."""
        first, *further = self.DDCNN
        x = shortcut = F.relu(first(x))
        for cell in further:
            x = F.relu(cell(x))
        return F.avg_pool3d(x + shortcut, (1, 2, 2))


class _Cell(nn.Module):
    """DDCNN: (2+1)-D convolutions that see 1, 2, 4 and 8 frames apart, side by side: 4 * filters channels."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        for dilation in _DILATIONS:
            self.add_module(f"Conv3D_{dilation}", _FactorisedConv(channels, filters, dilation))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.get_submodule(f"Conv3D_{dilation}")(x) for dilation in _DILATIONS], 1))


class _FactorisedConv(nn.Module):
    """Over the picture into 2 * filters channels, then over time into `filters`."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(
            2 * filters, filters, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False
        )
        self.layers = nn.Sequential(space, time)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _FrameSimilarity(nn.Module):
    """How like its neighbours a frame is by learned features: (B, T, C) -> (B, T, outputs)."""

    def __init__(self, channels: int, outputs: int, window: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, outputs)
        self.fc = nn.Linear(window, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.fc(_likeness(self.projection(features), self.fc.in_features)))


class _ColourHistograms(nn.Module):
    """How like its neighbours a frame is by its colours: (B, T, H, W, 3) uint8 -> (B, T, outputs)."""

    def __init__(self, outputs: int, window: int) -> None:
        super().__init__()
        self.fc = nn.Linear(window, outputs)

    def forward(self, frames: Tensor) -> Tensor:
        red, green, blue = (frames.flatten(2, 3).long() >> 5).unbind(-1)  # (B, T, HW)
        bins = (red << 6) + (green << 3) + blue
        histogram = torch.zeros(*bins.shape[:2], _HISTOGRAM_BINS, device=frames.device)
        histogram.scatter_add_(2, bins, torch.ones((), device=frames.device).expand_as(bins))
        return F.relu(self.fc(_likeness(histogram, self.fc.in_features)))


def _likeness(features: Tensor, window: int) -> Tensor:
    """Cosines of every frame with the `window` frames around it: (B, T, C) -> (B, T, window), 0 beyond the ends."""
    unit = F.normalize(features, dim=2)
    cosines = F.pad(unit @ unit.transpose(1, 2), (window // 2, window // 2))
    frames = features.shape[1]
    around = torch.arange(frames, device=features.device)[:, None] + torch.arange(window, device=features.device)
    return cosines.gather(2, around.expand(len(features), frames, window))
