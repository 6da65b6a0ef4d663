"""Sources sorted on disk are those sorted in memory; what comes again is told of once."""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.records import Kind, Source
from pipelines.curation.sources import in_order as module
from pipelines.curation.sources.in_order import in_order
from skyreels.storage import StorageError


def _together(before, now):
    return before.model_copy(update={"meta": before.meta | now.meta})


def _source(name, number, text=""):
    return Source.at(f"/in/{name}", Kind.VIDEO, number, {f"row{number}": f"a\tb\n\u2028{text}", "last": number})


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.lists(NAMES, max_size=30))
def test_runs_on_disk_are_the_list_in_memory(names):
    sources = [_source(name, number) for number, name in enumerate(names)]
    expected = {}
    for source in sources:
        known = expected.get(source.source_id)
        expected[source.source_id] = _together(known, source) if known else source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HELD", 2)
        patch.setattr(module, "_OPEN", 2)
        found = list(in_order(iter(sources), _together))
    assert found == sorted(expected.values(), key=lambda source: source.uri)


def test_few_sources_that_say_much_are_not_held_either(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_HELD_BYTES", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    ordered = in_order((_source(f"{n:02d}", n, "x" * 900) for n in range(10)), _together)
    next(ordered)
    assert len(list(tmp_path.glob("skyreels-inputs-*/*"))) == 10
    assert len(list(ordered)) == 9
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(small_disk, monkeypatch):
    monkeypatch.setattr(module, "_HELD", 1)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(StorageError, match=r"no room in .* to sort the inputs: set TMPDIR to a larger disk") as told:
        list(in_order((_source(f"{n}", n, "x" * 100_000) for n in range(20)), _together))
    assert told.value.errno == errno.ENOSPC
    assert not list(small_disk.iterdir())
