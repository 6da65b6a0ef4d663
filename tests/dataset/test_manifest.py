"""A manifest as it is written and as it is read: one schema, and what does not fit it is told."""

import pyarrow as pa
import pytest

from pipelines.curation.pool.tables import clip_table
from pipelines.dataset.manifest import COLUMNS, Facts, Sample, samples_in
from skyreels.storage import DamageError

ROW = {
    "key": "k", "kind": "video", "width": 64, "height": 48, "fps": 12.0, "frames": 24, "has_audio": True,
    "start_s": 1.0, "end_s": 3.0, "members": "{}",
}  # fmt: skip


def test_what_is_written_is_what_is_read():
    table = clip_table([ROW | {"caption_short": "A cat.", "visual.blur": 0.5}])
    assert samples_in(table, "here") == [ROW | {"caption_short": "A cat."}]
    assert Facts.__annotations__.keys() <= COLUMNS.keys()
    assert table.column_names[: len(COLUMNS)] == list(COLUMNS)


def test_a_column_without_a_value_is_none():
    table = clip_table([ROW | {"fps": None, "caption_long": None}])
    (row,) = samples_in(table, "here")
    assert row["fps"] is None
    assert row["caption_long"] is None
    assert "caption_short" not in row
    assert "caption_long" in Sample.__annotations__


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"key": ["k"], "width": [64]}), r"here is no manifest: it has no column end_s, .*curate\.py verify"),
        (
            pa.table({**{name: [value] for name, value in ROW.items()}, "frames": ["many"]}),
            "here is no manifest: .*many",
        ),
    ],
)
def test_another_table_is_told(table, said):
    with pytest.raises(DamageError, match=said):
        samples_in(table, "here")
