"""What a report is made of: the run's own tables, and nothing that needs the run to be alive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Rejection
from pipelines.curation.report.funnel import Reason, Step
from pipelines.curation.report.previews import Preview


@dataclass(frozen=True)
class Throughput:
    """What the run cost.

    `wall_s`, `media_s`, `clips` and `bytes` are of this run alone: a run that resumes, or only filters anew, reads
    less than the pool holds. `cpu_s` is CPU seconds per stage over everything in the pool, whenever it was read.
    """

    wall_s: float
    media_s: float
    clips: int
    bytes: int
    cpu_s: Mapping[str, float]


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    `clips` and `sources` have the columns of `tables.clip_table` and `tables.source_table`; `decisions` has every
    clip's key, None where it was kept; `captions` has rows with `short`, `long` and `caption_source` by key.
    `replay_command` is what a user types to have failed sources tried again. Where the tables are a sample of a large
    dataset, `steps` and `reasons` are those of all of it.
    """

    title: str
    recipe: Recipe
    clips: pa.Table
    sources: pa.Table
    decisions: Mapping[str, Rejection | None]
    captions: Mapping[str, Mapping[str, Any]]
    buckets: Mapping[str, int]
    throughput: Throughput
    replay_command: str
    previews: Sequence[Preview] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[Step] | None = None
    reasons: Sequence[Reason] | None = None
