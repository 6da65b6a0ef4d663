"""What the sandboxed child does with a long film that is measured in stretches: each step may run in another process.

Between steps stand files: `look.npz` of a stretch, `sound.npz` of the whole track.
"""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.curation.audio.frames import AudioFrames
from pipelines.curation.pool.measure import (
    Request,
    hear,
    measured_film,
    pass_config,
    prefilter,
    task_of,
    told,
)
from pipelines.curation.visual.decode_pass import (
    Curves,
    Stretch,
    join_stretches,
    measure_stretch,
    plan_stretches,
)
from pipelines.curation.visual.timeline import BlendCurves, CombCurve, FlowCurves, FrameCurves, Looks, SampledFrame
from skyreels.media.decode import shown_times

LOOK, SOUND = "look.npz", "sound.npz"
_SEEKABLE = frozenset({"mp4", "matroska"})
_TABLES = {"frames": FrameCurves, "blends": BlendCurves, "flow": FlowCurves, "looks": Looks, "combs": CombCurve}


def plan_film(request: Request, scratch: Path) -> dict[str, Any]:
    """The `stretches` of a film, [] for one that has to be measured whole."""
    task = task_of(request, scratch)
    video = task.probe.video
    plain = video is not None and not (video.clock_shifts or video.interlaced or video.alpha or task.probe.truncated)
    plain = plain and task.probe.container in _SEEKABLE and task.extract.shots.backend == "adaptive"
    if not plain or prefilter(task) is not None:
        return {"stretches": [], "timings": task.timings}
    times = shown_times(task.path, task.probe, task.limits)
    found = plan_stretches(times, task.probe, pass_config(task.extract), request["stretch_s"])
    return {"stretches": [_as_json(stretch) for stretch in found], "timings": task.timings}


def look_at_stretch(request: Request, scratch: Path) -> dict[str, Any]:
    """One stretch's curves, as a file."""
    task = task_of(request, scratch)
    with task.timed("decode and score"):
        curves = measure_stretch(
            task.path, task.probe, _stretch(request["stretch"]), pass_config(task.extract), task.limits
        )
    np.savez(scratch / LOOK, **_as_arrays(curves))
    return {"timings": task.timings}


def hear_film(request: Request, scratch: Path) -> dict[str, Any]:
    """The whole track's features, as a file; none, where there is nothing to hear."""
    task = task_of(request, scratch)
    sound = hear(task)
    if sound is not None:
        np.savez(scratch / SOUND, **{f.name: getattr(sound, f.name) for f in fields(sound)})
    return {"timings": task.timings}


def measure_film(request: Request, scratch: Path) -> dict[str, Any]:
    """What `measure_source` says, from all stretches' files (`looks`, in order) and that of the `sound`, if any."""
    task = task_of(request, scratch)
    config = pass_config(task.extract)
    planned = [_stretch(stretch) for stretch in request["stretches"]]
    with task.timed("join"):
        timeline = join_stretches([_curves(Path(path)) for path in request["looks"]], planned, task.probe, config)
    sound = next((_sound(Path(path)) for path in request["sound"]), None)
    return told(task, measured_film(task, timeline, sound))


def _as_json(stretch: Stretch) -> dict[str, Any]:
    """JSON knows no infinity: null stands for what never comes, or came before all."""
    told = asdict(stretch) | {"due_s": {name: _finite(value) for name, value in stretch.due_s.items()}}
    return told | {name: _finite(told[name]) for name in ("end_s", "to_s")}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _stretch(told: dict[str, Any]) -> Stretch:
    due_s = {name: -np.inf if value is None else value for name, value in told["due_s"].items()}
    ends = {name: np.inf if told[name] is None else told[name] for name in ("end_s", "to_s")}
    return Stretch(**{**told, **ends, "due_s": due_s})


def _as_arrays(curves: Curves) -> dict[str, Any]:
    arrays = {
        f"{table}.{column.name}": getattr(getattr(curves, table), column.name)
        for table, kind in _TABLES.items()
        for column in fields(kind)
    }
    arrays |= {f"steps.{index}": values for index, values in enumerate(curves.steps)}
    arrays["samples.time_s"] = np.array([sample.time_s for sample in curves.samples], np.float64)
    arrays["samples.bytes"] = np.array([len(sample.jpeg) for sample in curves.samples], np.int64)
    arrays["samples.jpeg"] = np.frombuffer(b"".join(sample.jpeg for sample in curves.samples), np.uint8)
    return arrays


def _curves(path: Path) -> Curves:
    with np.load(path, allow_pickle=False) as held:
        tables = {
            table: kind(**{column.name: held[f"{table}.{column.name}"] for column in fields(kind)})
            for table, kind in _TABLES.items()
        }
        tables["blends"] = replace(tables["blends"], half_s=tuple(tables["blends"].half_s.tolist()))
        jpegs = np.split(held["samples.jpeg"], np.cumsum(held["samples.bytes"])[:-1])
        samples = [
            SampledFrame(time_s, jpeg.tobytes())
            for time_s, jpeg in zip(held["samples.time_s"].tolist(), jpegs, strict=False)
        ]
        steps = (held["steps.0"], held["steps.1"], held["steps.2"])
        return Curves(**tables, steps=steps, samples=samples)


def _sound(path: Path) -> AudioFrames:
    with np.load(path, allow_pickle=False) as held:
        values = {column.name: held[column.name] for column in fields(AudioFrames)}
    return AudioFrames(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})
