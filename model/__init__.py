"""SkyReels-V4 in plain PyTorch: no Ray, no HTTP, no data pipeline."""

import skyreels  # noqa: F401  (first: it makes torchvision importable in every process; nothing else of it is used)
