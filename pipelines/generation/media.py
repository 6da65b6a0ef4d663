"""The files of a request as the generator takes them. They are probed and decoded in a child process with limits."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipelines.generation.decoding import ARRAY, OverlaysWanted, PicturesWanted, SoundWanted
from pipelines.generation.request import MAX_SECONDS, Kind, MediaFile, RequestError
from pipelines.overlays.find import Area, Found, Overlay, OverlayKind
from skyreels.media.errors import MediaError
from skyreels.media.facts import Probe
from skyreels.media.limits import MediaLimits
from skyreels.media.sandbox import Sandbox

LIMITS = MediaLimits(max_file_bytes=4 * 2**30, wall_s=300.0, cpu_s=300.0)
_DECODING = "pipelines.generation.decoding"
_KEPT_PROBES = 256
"""Files whose facts are remembered: those of a few requests, and not of all that a service ever had."""


class MediaReader:
    """Reads files in one sandbox; close it, or use it as a context."""

    def __init__(self, limits: MediaLimits = LIMITS) -> None:
        self._sandbox = Sandbox(limits, preload=(_DECODING,))
        self._probes: dict[Path, Probe] = {}

    def check(self, files: Sequence[MediaFile], *, still: bool = False) -> None:
        """Probe every file; RequestError where one cannot be read, is too long or is not what its field takes.

        `still` says that one picture is asked for.
        """
        for file in files:
            kind = self.kind(file)
            seconds = self._probe(file).duration_s
            if seconds > MAX_SECONDS:
                message = (
                    f"{file.path} lasts {seconds:.1f} s, at most {MAX_SECONDS:g} are read: cut it to the part meant"
                )
                raise RequestError(file.where, message)
            if still and file.field in ("video", "mask") and kind == "video":
                raise RequestError(file.where, f"{file.path} is a video, and one picture is asked for: give an image")

    def kind(self, file: MediaFile) -> Kind:
        """What the file is used as."""
        probe = self._probe(file)
        held: dict[Kind, object] = {"image": probe.image, "video": probe.video, "audio": probe.audio}
        found = [kind for kind in file.kinds if held[kind] is not None]
        if not found:
            holds = " and ".join(kind for kind, info in held.items() if info is not None)
            wanted = " or ".join(file.kinds)
            raise RequestError(file.where, f"{file.path} ({probe.container}) holds {holds}: give {wanted}")
        return found[0]

    def size(self, file: MediaFile) -> tuple[int, int]:
        """(width, height) upright, in square pixels."""
        probe = self._probe(file)
        if probe.image is not None:
            return probe.image.width, probe.image.height
        assert probe.video is not None
        return probe.video.display_size

    def pictures(self, file: MediaFile, cover: tuple[int, int], fps: float, *, as_mask: bool = False) -> np.ndarray:
        """(F, H, W, 3) uint8, or (F, H, W) bool of a mask; shrunk, never enlarged, as long as it covers `cover`."""
        width, height = self.size(file)
        scale = min(1.0, max(cover[0] / width, cover[1] / height))
        size = (math.ceil(width * scale), math.ceil(height * scale))
        probe = self._probe(file)
        frames = 1 if probe.video is None else max(1, round(probe.video.duration_s * fps))
        if (held := 3 * frames * size[0] * size[1]) > self._sandbox.limits.max_file_bytes:
            message = (
                f"{frames} frames of {size[0]}x{size[1]} take {held / 2**30:.1f} GiB: ask for a smaller size or fps"
            )
            raise RequestError(file.where, f"{file.path} as {message}")
        wanted = PicturesWanted(path=file.path, probe=probe, size=size, fps=fps, as_mask=as_mask)
        return self._array(file, "decode_pictures", wanted.model_dump(mode="json"))

    def holds(self, file: MediaFile, kind: Kind) -> bool:
        """Whether there is any of it in the file."""
        return getattr(self._probe(file), kind) is not None

    def overlays(self, file: MediaFile, kinds: Sequence[OverlayKind]) -> Found:
        """What of `kinds` is laid over a video or an image."""
        wanted = OverlaysWanted(path=file.path, probe=self._probe(file), kinds=tuple(kinds))
        told = self._call(file, "detect_overlays", wanted.model_dump(mode="json"), lambda reply, _: reply)
        overlays = [Overlay(kind, Area(*area), start_s, end_s) for kind, area, start_s, end_s in told["overlays"]]
        return Found(overlays, told["unsure"])

    def starts(self, file: MediaFile, kind: Kind) -> float:
        """When its first picture is shown or its sound begins, on the file's own clock."""
        probe = self._probe(file)
        stream = probe.audio if kind == "audio" else probe.video
        return 0.0 if stream is None else stream.start_s

    def sound(self, file: MediaFile, sample_rate: int, channels: int, start_s: float | None = None) -> np.ndarray:
        """(channels, samples) float32 from `start_s` on the file's clock; None: from its picture, else its sound."""
        probe = self._probe(file)
        if start_s is None:
            first = probe.video or probe.audio
            start_s = first.start_s if first else 0.0
        wanted = SoundWanted(path=file.path, probe=probe, start_s=start_s, sample_rate=sample_rate, channels=channels)
        return self._array(file, "decode_sound", wanted.model_dump(mode="json"))

    def close(self) -> None:
        self._sandbox.close()

    def __enter__(self) -> "MediaReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _probe(self, file: MediaFile) -> Probe:
        known = self._probes.pop(file.path, None)
        if known is None:
            facts = self._call(file, "probe_file", {"path": str(file.path)}, lambda reply, _: reply)
            known = Probe.model_validate(facts)
        self._probes[file.path] = known
        if len(self._probes) > _KEPT_PROBES:
            del self._probes[next(iter(self._probes))]
        return known

    def _array(self, file: MediaFile, target: str, request: dict[str, Any]) -> np.ndarray:
        return self._call(file, target, request, lambda _, scratch: np.load(scratch / ARRAY, allow_pickle=False))

    def _call(
        self, file: MediaFile, target: str, request: dict[str, Any], take: Callable[[dict[str, Any], Path], Any]
    ) -> Any:
        with TemporaryDirectory(prefix="skyreels-media-") as scratch:
            try:
                reply = self._sandbox.call(f"{_DECODING}:{target}", request, scratch=Path(scratch))
            except MediaError as error:
                raise RequestError(file.where, f"{file.path}: {error}") from error
            return take(reply, Path(scratch))
