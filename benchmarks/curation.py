"""Curation's cost against its targets, each beside a baseline measured in the same run.

    python benchmarks/curation.py [FILES...] [--only pass,prefilter,pipeline,overhead,resume,memory] [--keep DIR]

FILES are videos for pass, prefilter, pipeline and resume; without them three textured 720p films are rendered, which
are easier to decode and encode than natural video of that size. What is measured, always in CPU seconds of whole
processes unless it says wall, with one thread per process:

pass       `measure_source` (probe, prefilter, shots, every score, sound, segments) of all files in one process, as a
           worker's decoder does up to a thousand, its start counted once; against the command `scenedetect -i FILE
           detect-adaptive`, which finds hard cuts alone, once per file. The two take turns; medians of --repeat.
prefilter  probe and pass over key frames, without the interpreter's start, median of five.
pipeline   `curate`, from files to packed dataset with report, in clips of 5 to 10 s: CPU seconds of the whole tree of
           processes (driver, Ray, workers, decoders) on a cluster that is up and warm. Every source is paid for,
           those without a shot of 5 s too. The stages alone are what the decoders' own clocks say.
resume     the job again as a new process, with nothing to do.
overhead   the same sources (5 s, 640x360) through `extract_in_process` in two processes that share the parts evenly,
           and then through `extract_parts` on two CPUs of Ray. Both are warm when the clock starts: interpreters,
           imports and decoders have started, and Ray is up. Ray's own processes count.
memory     two hours of 320x180 with sound through the decoder of a worker, under the limits of the default recipe.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation_costs import ONE_THREAD, Cost, run
from curation_media import long_video, render_films, small_clips

BENCHMARKS = Path(__file__).resolve().parent
CHILD = [sys.executable, str(BENCHMARKS / "curation_child.py")]
JOB = [sys.executable, str(BENCHMARKS.parent / "jobs" / "curate.py")]
CLIPS = ["extract.segments.min_s=5", "extract.segments.max_s=10"]
CPUS = 2


@dataclass(frozen=True)
class Row:
    """One line of the table. `holds` is None for what has no target."""

    what: str
    value: str
    target: str = ""
    holds: bool | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    peak_mb: float | None = None
    baseline: str = ""


def main() -> None:
    measures: dict[str, Callable[[argparse.Namespace, list[Path], Path], list[Row]]] = {
        "pass": one_pass, "prefilter": prefilter, "pipeline": pipeline, "resume": resume, "overhead": overhead,
        "memory": memory,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--only", default=",".join(measures), help="comma-separated (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="of the decode pass (default %(default)s)")
    parser.add_argument("--minutes", type=int, default=120, help="of the long video (default %(default)s)")
    parser.add_argument("--clips", type=int, default=104, help="for Ray's overhead (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="keep media and outputs in this folder, and use what is there")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - measures.keys():
        parser.error(f"--only {','.join(sorted(unknown))}: choose from {','.join(measures)}")
    if missing := [str(path) for path in arguments.files if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="skyreels-benchmark-") as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        files = arguments.files
        if not files and set(wanted) & {"pass", "prefilter", "pipeline", "resume"}:
            files = render_films(folder / "films", 3, (1280, 720), 12.0, shots=2)
        print(_line("what", "value", "target", "holds", "CPU s", "wall s", "peak MB", "baseline, notes"))
        for name in (name for name in measures if name in wanted):
            for row in measures[name](arguments, [path.resolve() for path in files], folder):
                print(_written(row), flush=True)


def one_pass(arguments: argparse.Namespace, files: Sequence[Path], folder: Path) -> list[Row]:
    command = shutil.which("scenedetect", path=str(Path(sys.executable).parent)) or shutil.which("scenedetect")
    if command is None:
        raise SystemExit("no `scenedetect` command beside this Python: install the project's dependencies")
    ours: list[Cost] = []
    theirs: list[list[Cost]] = []
    for _ in range(arguments.repeat):
        ours.append(run([*CHILD, "pass", *map(str, files)]))
        theirs.append([run([command, "-q", "-i", str(path), "detect-adaptive"]) for path in files])
    found = [json.loads(cost.output) for cost in ours]
    rows = []
    for index, path in enumerate(files):
        cpu_s = statistics.median(each["files"][index]["cpu_s"] for each in found)
        rival_s = statistics.median(each[index].cpu_s for each in theirs)
        speed = f"{found[0]['files'][index]['seconds'] / cpu_s:.1f}x real time/core"
        rows.append(Row(f"  {path.name}", speed, cpu_s=cpu_s, baseline=f"scenedetect {rival_s:.2f} CPU s"))
    seconds = sum(each["seconds"] for each in found[0]["files"])
    cpu_s = statistics.median(cost.cpu_s for cost in ours)
    rival_s = statistics.median(sum(cost.cpu_s for cost in each) for each in theirs)
    start_s = statistics.median(each["start_s"] for each in found)
    per_core, ratio = seconds / cpu_s, cpu_s / rival_s
    walls = statistics.median(cost.wall_s for cost in ours)
    peak = max(cost.peak_mb for cost in ours)
    return [
        Row("pass over all files", f"{per_core:.1f}x real time/core", ">= 6", per_core >= 6, cpu_s, walls, peak,
            f"start {start_s:.2f} CPU s, in it once"),
        Row("  over the scenedetect command", f"{ratio:.2f}", "<= 1.3", ratio <= 1.3,
            baseline=f"scenedetect {rival_s:.2f} CPU s, {seconds / rival_s:.1f}x real time/core"),
        *rows,
    ]  # fmt: skip


def prefilter(arguments: argparse.Namespace, files: Sequence[Path], folder: Path) -> list[Row]:
    found = [json.loads(run([*CHILD, "prefilter", str(path)]).output) for path in files]
    seconds, cpu_s = (sum(each[name] for each in found) for name in ("seconds", "cpu_s"))
    per_core = seconds / cpu_s
    return [Row("prefilter, all files", f"{per_core:.0f}x real time/core", ">= 100", per_core >= 100, cpu_s=cpu_s)]


def pipeline(arguments: argparse.Namespace, files: Sequence[Path], folder: Path) -> list[Row]:
    found = json.loads(run([*CHILD, "pipeline", *_fresh(files, folder)]).output.splitlines()[-1])
    rate = found["clips"] / found["cpu_s"]
    kept = f"{found['clips']} clips of {found['seconds']:.0f} s, {found['kept']} kept"
    return [
        Row(
            "whole pipeline, precise re-encode", f"{rate:.2f} clips/s/core", ">= 0.2", rate >= 0.2, found["cpu_s"],
            found["wall_s"], found["peak_mb"], kept,
        ),
        Row("  the decoders' stages alone", f"{found['clips'] / found['stages_s']:.2f} clips/s/core",
            cpu_s=found["stages_s"]),
        Row("  of which report", f"{found['report_cpu_s'] / found['cpu_s']:.0%} of CPU", cpu_s=found["report_cpu_s"],
            wall_s=found["report_wall_s"]),
        Row(
            "  with Ray's start and imports", f"{found['clips'] / found['cpu_with_ray_start_s']:.2f} clips/s/core",
            cpu_s=found["cpu_with_ray_start_s"], wall_s=found["wall_with_ray_start_s"],
        ),
    ]  # fmt: skip


def resume(arguments: argparse.Namespace, files: Sequence[Path], folder: Path) -> list[Row]:
    media, output = folder / "input", folder / "output"
    if not (output / "datasets" / "default" / "manifest.parquet").exists():
        pipeline(arguments, files, folder)
    job = [*JOB, "--input", str(media), "--output", str(output), "--no-tracking", "--quiet", *CLIPS]
    cost = run(job)
    return [Row("resume with nothing to do", f"{cost.wall_s:.1f} s wall", "< 15", cost.wall_s < 15, *cost[:3])]


def overhead(arguments: argparse.Namespace, files: Sequence[Path], folder: Path) -> list[Row]:
    media = str(small_clips(folder / "overhead", arguments.clips)[0].parent)
    plain = _raced([["loop", media, _scratch(folder), str(index), str(CPUS)] for index in range(CPUS)])
    ray = _raced([["ray", media, _scratch(folder)]])
    clips, plain_cpu, plain_wall = _totals(plain)
    ray_clips, ray_cpu, ray_wall = _totals(ray)
    if clips != ray_clips:
        raise SystemExit(f"the loop cut {clips} clips and Ray {ray_clips}: they must do the same work")
    return [
        Row(
            "Ray's overhead, CPU", f"{ray_cpu / plain_cpu - 1:+.1%}", "< 10 %", ray_cpu < 1.1 * plain_cpu, ray_cpu,
            ray_wall, None, f"plain loop {plain_cpu:.1f} CPU s, {clips} clips each",
        ),
        Row(
            "Ray's overhead, wall", f"{ray_wall / plain_wall - 1:+.1%}", "< 10 %", ray_wall < 1.1 * plain_wall,
            wall_s=ray_wall, baseline=f"plain loop {plain_wall:.1f} s on {CPUS} processes",
        ),
    ]  # fmt: skip


def memory(arguments: argparse.Namespace, files: Sequence[Path], folder: Path) -> list[Row]:
    rows = []
    for minutes in (arguments.minutes // 12, arguments.minutes):
        cost = run([*CHILD, "memory", str(long_video(folder / "films", minutes))])
        found = json.loads(cost.output)
        if found["rejected"]:
            raise SystemExit(f"the long video was rejected: {found['rejected']}")
        worst = max(found["child_mb"], found["parent_mb"])
        rows.append(
            Row(
                f"memory, {found['seconds'] / 60:.0f} min of video", f"{worst:.0f} MB", "< 1500", worst < 1500,
                found["cpu_s"], found["wall_s"], worst,
                f"idle child {found['idle_mb']:.0f} MB, parent {found['parent_mb']:.0f}, {found['clips']} clips",
            )
        )  # fmt: skip
    return rows


def _fresh(files: Sequence[Path], folder: Path) -> list[str]:
    """An input folder that links the files, and an output that is empty."""
    media, output = folder / "input", folder / "output"
    for path in (media, output):
        shutil.rmtree(path, ignore_errors=True)
    media.mkdir(parents=True)
    for path in files:
        (media / path.name).symlink_to(path)
    return [str(media), str(output)]


def _scratch(folder: Path) -> str:
    return tempfile.mkdtemp(prefix="pool-", dir=folder)


def _raced(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Start all, wait until each says that it is ready, let them go together, and read what each reports."""
    environment = os.environ | ONE_THREAD
    started = [
        subprocess.Popen([*CHILD, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for command in commands
    ]
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("a measured process ended before it was ready")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def _totals(found: Sequence[dict[str, Any]]) -> tuple[int, float, float]:
    """Clips and CPU seconds of all, and wall seconds of the slowest."""
    clips, cpu_s = sum(each["clips"] for each in found), sum(each["cpu_s"] for each in found)
    return clips, cpu_s, max(each["wall_s"] for each in found)


def _written(row: Row) -> str:
    holds = "" if row.holds is None else "yes" if row.holds else "NO"
    numbers = [
        "" if number is None else f"{number:.{digits}f}"
        for number, digits in ((row.cpu_s, 2), (row.wall_s, 2), (row.peak_mb, 0))
    ]
    return _line(row.what, row.value, row.target, holds, *numbers, row.baseline)


def _line(what: str, value: str, target: str, holds: str, cpu: str, wall: str, peak: str, baseline: str) -> str:
    return f"{what:36.36s} {value:22s} {target:>8s} {holds:>5s} {cpu:>8s} {wall:>8s} {peak:>8s}  {baseline}"


if __name__ == "__main__":
    main()
