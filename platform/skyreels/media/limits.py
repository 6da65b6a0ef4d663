"""How much one hostile or broken media file may cost."""

from dataclasses import dataclass

from skyreels.media.errors import MediaError


@dataclass(frozen=True)
class MediaLimits:
    """Caps for one file. Sizes and counts are checked before and while decoding; time and memory by the sandbox.

    `max_pixels` counts width x height of one picture: the default admits 8K video and 48-megapixel photos.
    `cpu_s` and `wall_s` are per sandbox call, `memory_bytes` is what a call may add to the idle child.
    """

    max_file_bytes: int = 16 * 2**30
    max_pixels: int = 50_000_000
    max_frames: int = 1_000_000
    max_duration_s: float = 4 * 3600.0
    wall_s: float = 900.0
    cpu_s: float = 900.0
    memory_bytes: int = 3 * 2**30

    def check_bytes(self, size: int, name: str) -> None:
        """Raises MediaError where a file of `size` bytes is not to be read at all."""
        if size > self.max_file_bytes:
            remedy = f"Split it below {self.max_file_bytes} bytes."
            raise MediaError("file_too_large", remedy, f"{name} has {size} bytes")


DEFAULT_LIMITS = MediaLimits()
