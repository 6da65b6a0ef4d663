"""From a film's description to pixels, samples and truth, and to files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.synthesis.annotations import annotate
from pipelines.synthesis.film import Film
from pipelines.synthesis.masks import masks_at
from pipelines.synthesis.render import frames
from pipelines.synthesis.soundtrack import SoundEvent, record
from pipelines.synthesis.stage import Set, build
from skyreels.media.encode import write_video


@dataclass(frozen=True)
class Rendered:
    """A film ready to be watched: `frames()` may be called again and again; `audio` is (2, N) float32."""

    set: Set
    audio: np.ndarray
    events: list[SoundEvent]
    packs_masks: bool = False
    """Whether the annotation holds the subjects' masks."""

    @cached_property
    def annotation(self) -> dict[str, Any]:
        return annotate(self.set, self.events, masks=self.packs_masks)

    def frames(self, every: int = 1) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, drawn as they are asked for: the first and each `every`th after it."""
        return frames(self.set, every)

    def masks(self, index: int) -> dict[str, np.ndarray]:
        """(H, W) bool per subject that shows in frame `index`."""
        return masks_at(self.set, index)


def render(film: Film, *, masks: bool = False) -> Rendered:
    """Solve and record a film. `masks` puts packed masks into its annotation."""
    ready = build(film)
    audio, events = record(ready)
    return Rendered(ready, audio, events, masks)


def write_film(film: Film, folder: str | Path, name: str, *, crf: int = 18, masks: bool = False) -> dict[str, Any]:
    """Write `name`.mp4 and `name`.json into `folder`; returns the annotation. The same film gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rendered = render(film, masks=masks)
    write_video(
        folder / f"{name}.mp4",
        rendered.frames(),
        film.fps,
        audio=rendered.audio,
        sample_rate=film.sample_rate,
        crf=crf,
    )
    annotation = {"file": f"{name}.mp4", **rendered.annotation}
    (folder / f"{name}.json").write_text(json.dumps(annotation, ensure_ascii=False, default=float) + "\n", "utf-8")
    return annotation
