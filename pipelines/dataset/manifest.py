"""What a dataset folder says of its samples: `manifest.parquet`, one row each."""

from enum import StrEnum


class Kind(StrEnum):
    """Of sources and of the clips that are cut from them."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"
