"""Gathering what the report page shows: tables, decisions, costs, and previews that play."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version

from pipelines.curation.choice.selection import Decisions
from pipelines.curation.pool.read import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.report.data import ReportData, Throughput
from pipelines.curation.report.funnel import Reason, Step
from pipelines.curation.report.page import render_report
from pipelines.curation.report.previews import Preview, choose_previews, make_preview
from pipelines.curation.summary import Dataset, Work
from pipelines.dataset.tables import Row, members_of
from skyreels.shards import read_member
from skyreels.storage import DamageError, Storage
from skyreels.tracking import git_sha

logger = logging.getLogger(__name__)

_PER_REASON = 6
_PREVIEWS = 36
_PLAYED = ("mp4", "flac", "jpg")
_THREADS = 2  # encoders leave the interpreter alone while they work


def write_report(
    root: Storage,
    pool: Pool,
    recipe: Recipe,
    decisions: Decisions,
    captions: Mapping[str, Row],
    summary: Dataset,
    work: Work,
    counts: tuple[Sequence[Step], Sequence[Reason]] | None = None,
) -> str:
    """The page, as HTML. `counts`: steps and reasons of all clips, where those of the pool are a sample of them."""
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
            steps=counts[0] if counts else None,
            reasons=counts[1] if counts else None,
        )
    )


def _previews(pool: Storage, found: Pool, keys: Sequence[str]) -> list[Preview]:
    wanted = set(keys)
    rows = {row["key"]: row for row in found.clips.select(["key", "members"]).to_pylist() if row["key"] in wanted}

    def preview(key: str) -> Preview | None:
        members = members_of(rows[key])
        try:
            files = {ext: read_member(pool, member) for ext, member in members.items() if ext in _PLAYED}
        except DamageError as error:
            logger.warning("no preview of %s: %s", key, error)
            return None
        return make_preview(key, files)

    with ThreadPoolExecutor(_THREADS) as threads:
        return [made for made in threads.map(preview, keys) if made is not None]
