"""What the sandboxed child does with still pictures, many at once: each is probed, decoded once, measured and cut.

The files, scores and facts are those of `measure.py` and `cut.py`, whose functions do the work.
"""

from pathlib import Path
from typing import Any

from pipelines.curation.pool.cut import cut_picture
from pipelines.curation.pool.measure import Request, SourceTask, picture_clip
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Kind, clip_key
from skyreels.media.errors import MediaError
from skyreels.media.image import read_image
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe


def take_pictures(request: Request, scratch: Path) -> dict[str, Any]:
    """Everything about the request's `pictures` (source id -> path), by source id.

    What cannot be read, or is no still picture, is left out: asked about alone, it is told why.
    """
    extract = ExtractConfig.model_validate(request["extract"])
    limits = MediaLimits(**request["limits"])
    taken = {}
    for source_id, path in request["pictures"].items():
        try:
            found = _take(source_id, Path(path), extract, limits, scratch)
        except MediaError:
            (scratch / f"{clip_key(source_id, 0)}.jpg").unlink(missing_ok=True)
            continue
        if found is not None:
            taken[source_id] = found
    return {"taken": taken}


def _take(
    source_id: str, path: Path, extract: ExtractConfig, limits: MediaLimits, scratch: Path
) -> dict[str, Any] | None:
    facts = probe(path, limits)
    if facts.image is None:
        return None
    task = SourceTask(path, source_id, Kind.IMAGE, facts, extract, limits, scratch)
    with task.timed("decode and score"):
        picture = read_image(path, limits)
        clip = picture_clip(task, picture)
    if clip.rejection is None:
        with task.timed("cut"):
            cut_picture(task, clip, picture)
    return {
        "probe": facts.model_dump(mode="json"),
        "clip": clip.model_dump(mode="json"),
        "timings": task.timings,
    }
