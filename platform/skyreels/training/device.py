"""What the device can do and what it holds."""

import psutil
import torch

_PEAK_BF16 = {  # dense bf16 FLOP/s, from the vendors' data sheets
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "L40S": 362e12,
    "MI300X": 1307e12,
}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name; None where we do not know."""
    matching = [model for model in _PEAK_BF16 if model in name]
    return _PEAK_BF16[max(matching, key=len)] if matching else None


def memory_bytes(device: torch.device) -> int:
    """The most that the device has held, or what this process holds of the host's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
