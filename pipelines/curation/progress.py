"""What is told of a running curation: behind the driver's progress, and to Prometheus by the workers."""

from pipelines.curation.records import SourceReport
from pipelines.curation.summary import Work


class SourceCounter:
    """Reports finished sources to Ray's Prometheus endpoint, from inside a worker."""

    def __init__(self) -> None:
        from ray.util import metrics

        self._sources = metrics.Counter("skyreels_curation_sources", "Sources finished", ("kind", "status"))
        self._clips = metrics.Counter("skyreels_curation_clips", "Clips cut", ("kind",))
        self._seconds = metrics.Counter("skyreels_curation_media_seconds", "Seconds of media read", ("kind",))
        self._cpu = metrics.Counter("skyreels_curation_cpu_seconds", "CPU seconds spent", ("stage",))

    def __call__(self, report: SourceReport) -> None:
        kind = report.source.kind.value
        cut = sum(clip.rejection is None for clip in report.clips)
        self._sources.inc(1, {"kind": kind, "status": report.status.value})
        if cut:
            self._clips.inc(cut, {"kind": kind})
        if report.seconds:
            self._seconds.inc(report.seconds, {"kind": kind})
        for stage, seconds in report.timings.items():
            if seconds > 0:
                self._cpu.inc(seconds, {"stage": stage})


def pool_status(work: Work, wall_s: float) -> str:
    """What stands behind the bar: `48 clips, 0.12 h, 6.3x real time, 2 without a clip`."""
    speed = work.seconds / max(wall_s, 1e-9)
    return f"{work.clips} clips, {work.seconds / 3600:.2f} h, {speed:.1f}x real time, {work.failed} without a clip"
