"""Files that came with a request: told apart by their content and probed in a child process, under tight limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe
from skyreels.media.sandbox import Sandbox
from skyreels.serving.errors import invalid

_TARGET = "skyreels.serving.intake.media_check:inspect"


_FILE = MediaLimits(
    max_file_bytes=200 * 10**6, max_frames=3600, max_duration_s=60.0, wall_s=60.0, cpu_s=60.0, memory_bytes=2 * 2**30
)


@dataclass(frozen=True)
class UploadLimits:
    """How much one request may bring. `media` holds for each file, while it is probed and as it is decoded."""

    body_bytes: int = 256 * 2**20
    files: int = 16
    bytes_of: Mapping[str, int] = field(default_factory=lambda: {"image": 30 * 10**6, "audio": 25 * 10**6})
    media: MediaLimits = _FILE
    video_pixels: int = 4096 * 2304
    fetch_s: float = 60.0
    """How long all URLs of one request may take."""


class MediaCheck:
    """One sandbox, used by one thread."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._sandbox = Sandbox(limits.media, preload=("skyreels.serving.intake.media_check",))

    def check(self, where: str, path: Path, kinds: tuple[str, ...]) -> None:
        """ServingError naming the field `where`, unless the file can be read and is one of `kinds`."""
        found = self.look(where, path)
        held = [kind for kind in kinds if kind in found["kinds"]]
        if not held:
            message = f"the file holds {' and '.join(found['kinds'])}: send {' or '.join(kinds)}"
            raise invalid(where, message, "invalid_media")
        if (most := self._limits.bytes_of.get(held[0])) is not None and path.stat().st_size > most:
            message = (
                f"the file has {path.stat().st_size} bytes, at most {most} are taken of {held[0]}: make it smaller"
            )
            raise invalid(where, message, "file_too_large")

    def look(self, where: str, path: Path) -> dict[str, Any]:
        """What the file holds: `kinds`; of a video `size`, `fps` and `frames`. ServingError where it cannot be read."""
        limits = self._limits.media
        request = {
            "path": str(path),
            "pixels": limits.max_pixels,
            "frames": limits.max_frames,
            "seconds": limits.max_duration_s,
            "bytes": limits.max_file_bytes,
        }
        with TemporaryDirectory(prefix="skyreels-check-") as scratch:
            try:
                found = self._sandbox.call(_TARGET, request, scratch=Path(scratch))
            except MediaError as error:
                detail = error.detail.replace(path.name, "the file") if len(error.detail) < 200 else ""
                message = f"{error.reason}{': ' if detail else ''}{detail}. {error.remedy}"
                raise invalid(where, message, "invalid_media") from error
        if found["pixels"] > self._limits.video_pixels and "video" in found["kinds"]:
            message = f"its frames have {found['pixels']} pixels, at most {self._limits.video_pixels}: scale it down"
            raise invalid(where, message, "invalid_media")
        return found

    def close(self) -> None:
        self._sandbox.close()


def inspect(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run in the child: what the file holds."""
    limits = MediaLimits(
        max_file_bytes=request["bytes"],
        max_pixels=request["pixels"],
        max_frames=request["frames"],
        max_duration_s=request["seconds"],
    )
    found = probe(request["path"], limits)
    held = {"image": found.image, "video": found.video, "audio": found.audio}
    told: dict[str, Any] = {"kinds": [kind for kind, info in held.items() if info is not None], "pixels": 0}
    if found.video is not None:
        frames = max(1, found.video.shown_packets)
        fps = frames / found.video.duration_s if found.video.duration_s > 0 else 1.0
        shown = {"size": list(found.video.display_size), "fps": fps, "frames": frames}
        told |= {"pixels": found.video.width * found.video.height, **shown}
    return told
