"""A small finished run, made of tables alone, with names that try to break out of the page."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.curation.filters import Rule, first_broken
from pipelines.curation.pool import tables
from pipelines.curation.recipe import ExtractConfig, Recipe
from pipelines.curation.records import Clip, Kind, Rejection, Source, SourceReport, Status, clip_key
from pipelines.curation.report import Preview, ReportData, Throughput

HOSTILE = "</script><script>alert('a')</script><img src=x onerror=alert(1)>\"'&\u202egpj\x00\x1b[31m"
SPEAKING = ("speech", "singing")


@pytest.fixture(scope="session")
def hostile():
    return HOSTILE


@pytest.fixture(scope="session")
def recipe():
    return Recipe(
        name="test",
        extract=ExtractConfig(gate={"luma": Rule(score="visual.luma", min=16, max=235)}),
        filters={
            "sharp": Rule(score="visual.sharpness", min=40, kinds=(Kind.VIDEO,)),
            "silent": Rule(score="audio.silence", max=0.2, group="audio", when={"audio.class": SPEAKING}),
            "sync": Rule(score="sync.offset_frames", max_abs=3, group="sync", kinds=(Kind.VIDEO,)),
        },
    )


@pytest.fixture(scope="session")
def run(recipe):
    """`ReportData` of 12 sources and their clips; decisions are those of the recipe's rules."""
    rng = np.random.default_rng(7)
    reports = [_report(index, rng, recipe) for index in range(12)]
    clips = [clip for report in reports for clip in report.clips]
    decisions = {c.key: c.rejection or first_broken(recipe.filters, c.kind, c.scores) for c in clips}
    first, second = [clip.key for clip in clips if decisions[clip.key] is None][:2]
    decisions[second] = Rejection(stage="dedup", reason="exact", remedy="none needed", detail=f"same bytes as {first}")
    kept = [key for key, why in decisions.items() if why is None]
    return ReportData(
        title=f"run of {HOSTILE}",
        recipe=recipe,
        clips=tables.clip_table(tables.clip_rows("part", clips, {})),
        sources=tables.source_table(tables.source_rows("part", reports)),
        decisions=decisions,
        captions={key: {"short": HOSTILE, "long": HOSTILE, "caption_source": HOSTILE} for key in kept},
        buckets={"video-720p-16x9-2s": 5, "video-720p-16x9-5s": 2, "audio-5s": 4, "image-720p-1x1": 1},
        throughput=Throughput(
            wall_s=50.0, media_s=400.0, clips=len(clips), bytes=10**9, cpu_s={"cut": 60.0, "read": 20.0}
        ),
        replay_command=f"python jobs/curate.py --input '{HOSTILE}' --replay-rejects",
        previews=[
            Preview(first, "video/mp4", b"mp4", 240, 134, 4.0, poster=b"jpg"),
            Preview(second, "audio/mpeg", b"mp3", seconds=4.0, peaks=(0.1, 0.9)),
            Preview(kept[1], "image/jpeg", b"jpg", 320, 180),
        ],
        provenance={"code": "0123abc", HOSTILE: HOSTILE},
    )


@pytest.fixture(scope="session")
def empty_run(run):
    """The same run, had it found nothing."""
    return replace(
        run,
        clips=tables.clip_table([]),
        sources=tables.source_table([]),
        decisions={},
        captions={},
        buckets={},
        throughput=Throughput(0.4, 0.0, 0, 0, {}),
        previews=[],
    )


def _report(index: int, rng: np.random.Generator, recipe: Recipe) -> SourceReport:
    kind = (Kind.VIDEO, Kind.VIDEO, Kind.AUDIO)[index % 3]
    report = SourceReport(source=Source.at(f"/in/{index}{HOSTILE}", kind, 1000), status=Status.OK, seconds=40.0)
    if index in (4, 8):
        report.status = Status.FAILED if index == 4 else Status.REJECTED
        reason = "no_frames" if index == 4 else "basic:visual.luma"
        report.rejection = Rejection(stage="probe", reason=reason, remedy="fetch it `again`", detail=HOSTILE)
        return report
    report.uncovered = [(0.0, 1.5, "too_short")]
    for place in range(6):
        clip = Clip(
            key=clip_key(report.source.source_id, place),
            source_id=report.source.source_id,
            kind=kind,
            start_s=5.0 * place,
            end_s=5.0 * place + float(rng.uniform(2, 5)),
            width=1280 if kind is Kind.VIDEO else 0,
            height=720 if kind is Kind.VIDEO else 0,
            scores=_scores(kind, rng),
        )
        clip.rejection = first_broken(recipe.extract.gate, kind, clip.scores, stage="gate")
        report.clips.append(clip)
    return report


def _scores(kind: Kind, rng: np.random.Generator) -> dict:
    heard = {
        "audio.silence": float(rng.beta(1, 5)),
        "audio.class": str(rng.choice(["speech", "music", HOSTILE])),
        "audio.loudness": float(rng.normal(-20, 6)),
    }
    if kind is Kind.AUDIO:
        return heard
    return heard | {
        "visual.luma": float(np.clip(rng.normal(90, 60), 0, 255)),
        "visual.sharpness": float(rng.lognormal(4.5, 0.7)),
        "visual.fade": bool(rng.random() < 0.2),
        "sync.offset_frames": float(rng.normal(0, 2)) if rng.random() < 0.7 else None,
    }
