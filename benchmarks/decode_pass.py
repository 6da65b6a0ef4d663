"""The shared decode pass against PySceneDetect's command alone, in CPU seconds of whole processes on the same files.

    python benchmarks/decode_pass.py FILES... [--repeat 3]

Ours decodes once, finds shots and transitions, cuts clips and scores them; the command only finds hard cuts. Both
decode with one thread. The prefilter, which reads key frames only, is timed without the interpreter's start.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1", "OPENCV_FOR_THREADS_NUM": "1"}


class Cost(NamedTuple):
    cpu_s: float
    wall_s: float
    output: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="measure one file in this process, print JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.files[0])))
        return
    command = shutil.which("scenedetect", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if command is None:
        raise SystemExit("no `scenedetect` command beside this Python: install the project's dependencies")
    print(
        f"{'file':32s} {'media s':>8s} {'ours CPU':>9s} {'wall':>7s} {'x real':>7s} {'theirs':>8s} {'ratio':>6s}",
        end="",
    )
    print(f" {'prefilter x':>11s} {'clips':>6s} {'peak MB':>8s}")
    for path in arguments.files:
        ours, theirs = [], []
        for _ in range(arguments.repeat):
            ours.append(run([sys.executable, __file__, "--measure", str(path)]))
            theirs.append(run([command, "-q", "-i", str(path), "detect-adaptive"]))
        found = json.loads(ours[-1].output)
        cpu_s, rival_s = (statistics.median(cost.cpu_s for cost in costs) for costs in (ours, theirs))
        wall_s = statistics.median(cost.wall_s for cost in ours)
        print(
            f"{path.name[:32]:32s} {found['seconds']:8.1f} {cpu_s:9.2f} {wall_s:7.2f} {found['seconds'] / cpu_s:7.1f} "
            f"{rival_s:8.2f} {cpu_s / rival_s:6.2f} {found['prefilter_x']:11.0f} {found['clips']:6d}"
            f" {found['peak_mb']:8.0f}"
        )


def run(command: list[str]) -> Cost:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu_s, time.monotonic() - started, done.stdout)


def measure(path: Path) -> dict[str, float]:
    import cv2

    from pipelines.curation.segments import segment
    from pipelines.curation.visual.decode_pass import run_decode_pass
    from pipelines.curation.visual.prefilter import prefilter_scores
    from pipelines.curation.visual.scores import clip_scores
    from skyreels.media.probe import probe

    cv2.setNumThreads(1)
    found = probe(path)
    started = time.process_time()
    prefilter_scores(path, found)
    prefilter_s = time.process_time() - started
    timeline = run_decode_pass(path, found)
    gradual = [(transition.start_s, transition.end_s) for transition in timeline.transitions]
    clips, _ = segment(timeline.duration_s, [cut.time_s for cut in timeline.cuts], gradual)
    for clip in clips:
        clip_scores(timeline, *clip)
    return {
        "seconds": timeline.duration_s,
        "prefilter_x": timeline.duration_s / prefilter_s,
        "clips": len(clips),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
