"""What the model is fed, trained, served and judged with."""

import skyreels  # noqa: F401  (first: it makes torchvision importable in every process)
