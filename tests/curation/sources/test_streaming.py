"""Manifests of any length: pieces hold what the whole holds, plans are the same, and memory does not grow with rows."""

import csv
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.pool.plan import extend_plan, read_plan, store_plan
from pipelines.curation.recipe import ExtractConfig, PartsConfig
from pipelines.curation.sources import find, in_order, manifests
from pipelines.curation.sources.account import Account
from pipelines.curation.sources.find import find_sources, stream_sources
from pipelines.curation.sources.manifests import InputError, read_manifest
from pipelines.curation.sources.text_files import UnreadableText, decode_pieces
from skyreels.storage import Storage

TEXT = st.text(st.sampled_from('a é"\n\r,;\u2028\x85😀'), max_size=6)
ROWS = st.lists(st.tuples(TEXT, TEXT), max_size=8)


def _cut(data, size):
    return (data[start : start + size] for start in range(0, len(data), size))


@settings(max_examples=30, deadline=None)
@given(
    TEXT,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.binary(max_size=3),
    st.integers(0, 40),
    st.integers(1, 9),
)
def test_text_in_pieces_is_the_whole_text_and_its_damage_is_on_the_same_line(text, encoding, more, at, size):
    data = text.encode(encoding)
    data = data[:at] + more + data[at:]
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    told = next((name for mark, name in marks.items() if data.startswith(mark)), "utf-8")
    try:
        expected = data.decode(told)
    except UnicodeDecodeError as error:
        start = error.start + len(data) - len(error.object)  # that codec looks at what follows the mark
        line = data.count(b"\n", 0, start) + 1
        with pytest.raises(UnreadableText, match=f"^x, line {line}: byte 0x"):
            list(decode_pieces(_cut(data, size), "x"))
    else:
        assert "".join(decode_pieces(_cut(data, size), "x")) == expected


@settings(max_examples=30, deadline=None)
@given(ROWS, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(",;"), st.integers(1, 9))
def test_csv_in_pieces_has_the_rows_of_the_whole(tmp_path_factory, rows, end, separator, piece):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["path", "caption", "more"])
    writer.writerows([f"{number}.mp4", *row] for number, row in enumerate(rows))
    lines = csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=separator)
    next(lines)
    expected = []
    line = lines.line_num
    for name, *said in lines:
        kept = {column: value for column, value in zip(("caption", "more"), said, strict=True) if value}
        expected.append((f"line {line + 1}", name, kept))
        line = lines.line_num
    assert _read(tmp_path_factory, "x.csv", text.getvalue(), piece) == expected


@settings(max_examples=20, deadline=None)
@given(ROWS, st.sampled_from(["\n", "\r\n", "\n\n \n"]), st.integers(1, 9))
def test_json_in_pieces_has_the_rows_of_the_whole(tmp_path_factory, rows, end, piece):
    told = [{"path": f"{number}.mp4", "caption": one, "n": [two]} for number, (one, two) in enumerate(rows)]
    text = end.join(json.dumps(row, ensure_ascii=False) for row in told) + end
    numbers = [number for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rest = [{name: row[name] for name in ("caption", "n") if row[name]} for row in told]
    expected = [(f"line {n}", row["path"], kept) for n, row, kept in zip(numbers, told, rest, strict=True)]
    assert _read(tmp_path_factory, "x.jsonl", text, piece) == expected


def _read(tmp_path_factory, name, text, piece):
    path = tmp_path_factory.mktemp("manifest") / name
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "_PIECE", piece)
        rows = list(read_manifest(str(path)))
    return [(where.rpartition(", ")[2], target.rpartition("/")[2], rest) for where, target, rest in rows]


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(manifests, "_PIECE", 16)
    monkeypatch.setattr(manifests, "_ROWS", 2)
    monkeypatch.setattr(find, "_LOOKED_AT", 2)
    monkeypatch.setattr(find, "_AT_ONCE", 4)
    monkeypatch.setattr(in_order, "_HELD", 3)


def _manifest(folder, form):
    """Rows in no order, one file twice and one that is not there, with captions and licences; sidecars beside some."""
    rows = [{"path": f"{n * 7 % 11}/{n}.mp4", "licence": f"l{n}", "caption": f"a dog,\n{n}"} for n in range(13)]
    rows += [{"path": "7/1.mp4", "licence": "other", "caption": "a cat"}]
    for row in rows[:-3]:
        path = folder / row["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * len(row["licence"]))
    (folder / "7" / "1.txt").write_text("beside")
    path = folder / f"list.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    return str(path)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_streamed_manifest_makes_the_plan_that_the_whole_makes(tmp_path, few_at_once, form):
    (tmp_path / "in").mkdir()
    inputs = [_manifest(tmp_path / "in", form), str(tmp_path / "in" / "7"), str(tmp_path / "in" / "*" / "1*.mp4")]
    extract = ExtractConfig(parts=PartsConfig(max_sources=2))
    lists = list(stream_sources(inputs, Account()))
    expected = find_sources(inputs)
    assert [len(some) for some in lists] == [4, 4, 4, 1]
    assert [source for some in lists for source in some] == expected
    assert expected[9].meta["_captions"][0]["shots"] == [{"short": "a cat", "long": "a cat"}]
    streamed, whole = (Storage(str(tmp_path / name)) for name in ("streamed", "whole"))
    for sources in lists:
        store_plan(streamed, sources, extract)
    extend_plan(whole, expected, extract)
    assert read_plan(streamed, extract) == read_plan(whole, extract)


def test_nothing_is_told_of_a_manifest_whose_last_row_is_wrong(tmp_path, few_at_once):
    path = tmp_path / "list.csv"
    path.write_text("path,n\n" + "".join(f"{n}.mp4,{n}\n" for n in range(40)) + "z.mp4,1,2\n")
    with pytest.raises(InputError, match=r"list\.csv, line 42: 3 values under 2 columns; put values"):
        next(stream_sources([str(path)], Account()))


def test_damage_within_a_parquet_file_is_told(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": [f"{n}.mp4" for n in range(5000)]}), path, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[100:2000] = bytes(1900)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"list\.parquet cannot be read as Parquet: .*; write it anew"):
        list(read_manifest(str(path)))


def test_memory_does_not_grow_with_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "_AT_ONCE", 50)
    monkeypatch.setattr(in_order, "_HELD", 50)
    monkeypatch.setattr(find, "_LOOKED_AT", 50)
    monkeypatch.setattr(manifests, "_PIECE", 1 << 14)
    peaks = []
    for rows in (200, 800):
        path = tmp_path / f"{rows}.jsonl"
        path.write_text("".join(f'{{"path": "{n * 7 % rows:05d}.mp4", "note": "{n:020000d}"}}\n' for n in range(rows)))
        tracemalloc.start()
        assert sum(len(some) for some in stream_sources([str(path)], Account())) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5_000_000  # held whole, 600 rows more take 12 MB at the least
