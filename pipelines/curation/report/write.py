"""Gathering what the report page shows: tables, decisions, costs, and previews that play."""

import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version

from pipelines.curation import tables
from pipelines.curation.pool import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.report.data import ReportData, Throughput
from pipelines.curation.report.page import render_report
from pipelines.curation.report.previews import Preview, choose_previews, make_preview
from pipelines.curation.selection import Decisions, Row
from pipelines.curation.summary import Dataset, Work
from skyreels.shards import read_member
from skyreels.storage import Storage
from skyreels.tracking import git_sha

_PER_REASON = 6
_PREVIEWS = 36
_THREADS = 2  # encoders leave the interpreter alone while they work


def write_report(
    root: Storage,
    pool: Pool,
    recipe: Recipe,
    decisions: Decisions,
    captions: Mapping[str, Row],
    summary: Dataset,
    work: Work,
) -> str:
    """The page, as HTML."""
    keys = choose_previews(pool.clips, decisions, _PER_REASON, recipe.shards, limit=_PREVIEWS)
    return render_report(
        ReportData(
            title=f"Dataset {recipe.name}",
            recipe=recipe,
            clips=pool.clips,
            sources=pool.sources,
            decisions=decisions,
            captions=captions,
            buckets=summary.buckets,
            throughput=Throughput(
                wall_s=summary.wall_s,
                media_s=work.seconds,
                clips=work.clips,
                bytes=work.bytes,
                cpu_s=summary.cpu_s,
            ),
            replay_command=f"python jobs/curate.py --output {shlex.quote(root.root)} --replay-rejects",
            previews=_previews(root.sub("pool"), pool, keys),
            provenance={
                "code": git_sha(),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "place": summary.location,
                "extraction": recipe.extract.identity,
                **{name: version(name) for name in ("ray", "av", "scenedetect-headless")},
            },
        )
    )


def _previews(pool: Storage, found: Pool, keys: Sequence[str]) -> list[Preview]:
    wanted = set(keys)
    rows = {row["key"]: row for row in found.clips.select(["key", "members"]).to_pylist() if row["key"] in wanted}

    def preview(key: str) -> Preview:
        members = tables.members_of(rows[key])
        return make_preview(
            key, {ext: read_member(pool, members[ext]) for ext in ("mp4", "flac", "jpg") if ext in members}
        )

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(preview, keys))
