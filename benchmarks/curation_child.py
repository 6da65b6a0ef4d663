"""The measured halves of `benchmarks/curation.py`, each a process of its own that prints one line of JSON.

python benchmarks/curation_child.py pass FILE... | prefilter FILE | memory FILE | pipeline INPUT OUTPUT
                                    | loop INPUT OUTPUT INDEX OF | ray INPUT OUTPUT
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from curation_costs import TreeMeter, peak_rss_mb
from curation_media import render_films

from pipelines.curation.pool.plan import Part, make_parts
from pipelines.curation.recipe import Recipe, load_recipe
from pipelines.curation.sources.find import find_sources
from skyreels.media.limits import DEFAULT_LIMITS
from skyreels.storage import Storage, normalise

CPUS = 2
CLIPS = ("extract.segments.min_s=5", "extract.segments.max_s=10")  # seconds
_PREFILTER_REPEATS = 5


def main() -> None:
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "pass": one_pass, "prefilter": prefilter, "memory": memory, "pipeline": pipeline, "loop": loop, "ray": with_ray
    }  # fmt: skip
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])), flush=True)


def one_pass(*paths: str) -> dict[str, Any]:
    """Probe, prefilter, the decode pass, sound, segments and every score of every clip; nothing is cut."""
    from pipelines.curation.pool.measure import measure_source, probe_source

    recipe = load_recipe()
    start_s, files = time.process_time(), []
    for path in paths:
        before = time.process_time()
        with TemporaryDirectory() as scratch:
            request = {**_request(path, recipe), "limits": asdict(DEFAULT_LIMITS)}
            request |= probe_source(request, Path(scratch))
            measure_source(request, Path(scratch))
        files.append({"seconds": request["seconds"], "cpu_s": time.process_time() - before})
    return {"start_s": start_s, "files": files}


def prefilter(path: str) -> dict[str, Any]:
    """CPU seconds of the probe and the pass over key frames, without the interpreter's start."""
    import cv2

    from pipelines.curation.visual.prefilter import prefilter_scores
    from skyreels.media.probe import probe

    cv2.setNumThreads(1)
    used = []
    for _ in range(_PREFILTER_REPEATS):
        started = time.process_time()
        found = probe(path)
        prefilter_scores(path, found)
        used.append(time.process_time() - started)
    return {"seconds": found.duration_s, "cpu_s": sorted(used)[len(used) // 2]}


def memory(path: str) -> dict[str, Any]:
    """One source measured in a sandboxed child, as a worker does it."""
    from pipelines.curation.pool.extract import media_limits
    from skyreels.media.sandbox import Sandbox

    recipe = load_recipe()
    limits = recipe.extract.limits
    started = time.monotonic()
    with (
        TemporaryDirectory() as scratch,
        Sandbox(media_limits(recipe.extract), preload=("pipelines.curation.pool.cut",)) as box,
        TreeMeter() as meter,
    ):
        request = {**_request(path, recipe), "limits": asdict(box.limits)}
        probed = box.call("pipelines.curation.pool.measure:probe_source", request, wall_s=60, scratch=Path(scratch))
        assert box.pid is not None
        idle_mb = peak_rss_mb(box.pid)
        request |= {"probe": probed["probe"], "kind": probed["kind"]}
        wall_s = limits.wall_floor_s + limits.wall_per_media_s * probed["seconds"]
        measured = box.call(
            "pipelines.curation.pool.measure:measure_source", request, wall_s=wall_s, scratch=Path(scratch)
        )
        child_mb, parent_mb = peak_rss_mb(box.pid), peak_rss_mb(os.getpid())
    return {
        "seconds": probed["seconds"], "clips": len(measured["clips"]), "rejected": measured["rejection"],
        "idle_mb": idle_mb, "child_mb": child_mb, "parent_mb": parent_mb,
        "cpu_s": meter.cpu_s, "wall_s": time.monotonic() - started,
    }  # fmt: skip


def pipeline(folder: str, output: str) -> dict[str, Any]:
    """`curate` on a cluster that has started and whose workers have imported what they need."""
    from pipelines.curation import dataset
    from pipelines.curation.pipeline import Options, curate
    from skyreels import cluster

    recipe = load_recipe("default", CLIPS)
    report: dict[str, float] = {}

    @contextmanager
    def timed() -> Iterator[None]:
        cpu, wall = time.process_time(), time.monotonic()
        yield
        report.update(report_cpu_s=time.process_time() - cpu, report_wall_s=time.monotonic() - wall)

    with TreeMeter() as all_of_it, cluster.connect(num_cpus=CPUS):
        _warm_up_ray(recipe)
        with TreeMeter() as meter, mock.patch.object(dataset, "write_report", timed()(dataset.write_report)):
            made = curate([folder], output, recipe, Options(quiet=True))
    return {
        **report,
        "clips": made.clips, "kept": made.kept, "seconds": made.seconds_in,
        "cpu_s": meter.cpu_s, "wall_s": meter.wall_s, "peak_mb": meter.peak_mb, "stages_s": sum(made.cpu_s.values()),
        "cpu_with_ray_start_s": all_of_it.cpu_s, "wall_with_ray_start_s": all_of_it.wall_s,
    }  # fmt: skip


def loop(folder: str, output: str, index: str, of: str) -> dict[str, Any]:
    """Every `of`-th part in a plain loop, after one part to warm up and a line on stdin."""
    from pipelines.curation.pool.extract import extract_in_process

    recipe = load_recipe()
    parts = _parts(folder, recipe)
    with TemporaryDirectory() as elsewhere:
        list(extract_in_process(_warm_up_parts(elsewhere, 1), recipe.extract, Storage(elsewhere)))
    print("ready", flush=True)
    sys.stdin.readline()
    with TreeMeter() as meter:
        done = list(extract_in_process(parts[int(index) :: int(of)], recipe.extract, Storage(normalise(output))))
    return {"cpu_s": meter.cpu_s, "wall_s": meter.wall_s, "clips": sum(result.clips for result in done)}


def with_ray(folder: str, output: str) -> dict[str, Any]:
    """The same parts on Ray. Ray's own processes count; its start and the workers' imports do not."""
    from pipelines.curation.pool.extract import extract_parts
    from skyreels import cluster

    recipe = load_recipe()
    with cluster.connect(num_cpus=CPUS):
        _warm_up_ray(recipe)
        print("ready", flush=True)
        sys.stdin.readline()
        with TreeMeter() as meter:
            found = list(extract_parts(_parts(folder, recipe), recipe.extract, Storage(normalise(output))))
    return {"cpu_s": meter.cpu_s, "wall_s": meter.wall_s, "clips": sum(result.clips for result in found)}


def _request(path: str, recipe: Recipe) -> dict[str, Any]:
    return {"path": path, "source_id": "0" * 16, "extract": recipe.extract.model_dump(mode="json")}


def _parts(folder: str, recipe: Recipe) -> list[Part]:
    return make_parts(find_sources([folder]), recipe.extract)


def _warm_up_parts(folder: str, count: int) -> list[Part]:
    """Parts of one tiny source each."""
    (film,) = render_films(Path(folder) / "films", 1, (128, 128), 2.0, shots=1)
    (source,) = find_sources([str(film)])
    return [Part(f"warm-up-{index}", (source,)) for index in range(count)]


def _warm_up_ray(recipe: Recipe) -> None:
    """Every worker imports and starts its decoding child: two parts for each, at once."""
    from pipelines.curation.pool.extract import extract_parts

    with TemporaryDirectory() as elsewhere:
        list(extract_parts(_warm_up_parts(elsewhere, 2 * CPUS), recipe.extract, Storage(elsewhere)))


if __name__ == "__main__":
    main()
