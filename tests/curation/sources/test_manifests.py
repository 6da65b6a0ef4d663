"""Manifests as people save them: read, or an error that names file, line and remedy."""

import datetime
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.curation.sources.find import find_sources
from pipelines.curation.sources.manifests import InputError, read_manifest


def _read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return [(target.rpartition("/")[2], rest) for _, target, rest in read_manifest(str(tmp_path / name))]


@pytest.mark.parametrize(
    ("name", "data", "rest"),
    [
        ("u2028.jsonl", '{"path": "a.mp4", "caption": "a\u2028b\u0085c"}\r\n', {"caption": "a\u2028b\u0085c"}),
        ("utf16.csv", "path,caption\na.mp4,hello\n".encode("utf-16"), {"caption": "hello"}),
        ("bom.csv", b'\xef\xbb\xbfpath,caption\r\na.mp4,"two\r\nlines"\r\n', {"caption": "two\r\nlines"}),
        ("semicolon.csv", "path;caption\na.mp4;a dog, running\n", {"caption": "a dog, running"}),
        ("tab.csv", "path\tcaption\na.mp4\ta dog\n", {"caption": "a dog"}),
        ("x.tsv", "path\tcaption\na.mp4\ta dog\n", {"caption": "a dog"}),
        ("huge.csv", 'path,caption\na.mp4,"' + "x " * 80_000 + '"\n', {"caption": "x " * 80_000}),
        ("spaces.csv", " path , caption\n a.mp4,x\n", {"caption": "x"}),
        ("upper.csv", "Path,Caption\na.mp4,x\n", {"Caption": "x"}),
        ("short.csv", "path,caption,licence\na.mp4,only two\n", {"caption": "only two"}),
        ("blank.csv", "\npath,caption\n\n,\na.mp4,x\n", {"caption": "x"}),
        ("array.jsonl", '[{"path": "a.mp4",\n"n": 1}]\n', {"n": 1}),
        ("file_name.jsonl", '{"file_name": "a.mp4", "text": "x"}', {"text": "x"}),
        ("page.csv", "url,file\nhttps://example.org/watch?v=1,a.mp4\n", {"url": "https://example.org/watch?v=1"}),
        ("nan.jsonl", '{"path": "a.mp4", "n": NaN, "m": [1, Infinity]}', {"m": [1, None]}),
        ("one.csv", "path\na.mp4\n", {}),
        ("unmarked_le.csv", "path,caption\na.mp4,é\n".encode("utf-16-le"), {"caption": "é"}),
        ("unmarked_be.jsonl", '{"path": "a.mp4", "caption": "é"}'.encode("utf-16-be"), {"caption": "é"}),
        ("list.json", '[{"path": "a.mp4",\n"n": 1}]\n', {"n": 1}),
        ("quotes.csv", 'path,a,b\na.mp4,he said "hi","he said ""hi"""\n', {"a": 'he said "hi"', "b": 'he said "hi"'}),
    ],
)  # fmt: skip
def test_every_dialect_is_read(tmp_path, name, data, rest):
    assert _read(tmp_path, name, data) == [("a.mp4", rest)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("comma.csv", "path,caption\nb.mp4,x\na.mp4,a dog, running\n", r"comma\.csv, line 3: 3 values under 2 columns"),
        ("cp1252.csv", "path,caption\na.mp4,café\n".encode("cp1252"), r"cp1252\.csv, line 2: byte 0xe9 is not UTF-8"),
        ("twice.csv", "path,caption,caption\na.mp4,x,y\n", r"line 1: column 'caption' comes twice"),
        ("list.jsonl", '["a.mp4"]\n', r"list\.jsonl, row 1 is a str: write an object"),
        ("number.jsonl", '{"path": "a"}\n7\n', r"number\.jsonl, line 2 is a int: write an object"),
        ("cut.jsonl", '{"path": "a"}\n{"path"\n', r"cut\.jsonl, line 2 is not JSON: .*; write one object a line"),
        ("web.csv", "url,caption\nhttps://example.org/a.mp4,x\n", r"web\.csv, line 2: https://.* is on the web"),
        ("none.csv", "licence,n\nCC0,1\n", r"line 2: no location among licence, n; name it in one of uri, path"),
        ("typed.jsonl", '{"path": 7}', r"line 1: the location is 7, which is no text"),
        ("zero.jsonl", '{"path": "a\\u0000.mp4"}', r"line 1: the location 'a.x00\.mp4' has a zero byte"),
        ("open.csv", 'path,caption\na.mp4,x\nb.mp4,"y\nc.mp4,z\n', r"open\.csv, line 3: .*; close each value"),
        ("early.csv", 'path,caption\na.mp4,"x" y\n', r"early\.csv, line 2: .* write a quote within it twice"),
        ("x.parquet", b"PAR1 and no more", r"x\.parquet cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_names_file_line_and_remedy(tmp_path, name, data, message):
    with pytest.raises(InputError, match=message):
        _read(tmp_path, name, data)


def test_the_line_after_a_value_of_several_lines_is_counted_in_lines(tmp_path):
    with pytest.raises(InputError, match=r"line 4: 3 values"):
        _read(tmp_path, "x.csv", 'path,caption\na.mp4,"one\ntwo"\nb.mp4,x,y\n')


def test_columns_of_any_type_can_be_stored(tmp_path, caplog):
    row = {"path": "a.mp4", "when": datetime.datetime(2024, 1, 1), "emb": [1.0, float("nan")], "thumb": b"\xff\xd8"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    with caplog.at_level(logging.WARNING):
        (source,) = find_sources([str(tmp_path / "x.parquet")])
    assert source.meta == {"when": "2024-01-01T00:00:00", "emb": [1.0, None]}
    assert json.loads(source.model_dump_json())["meta"] == source.meta
    assert "columns of bytes are left out: thumb" in caplog.text


def test_columns_that_are_named_as_notes_of_curation_are_left_out_aloud(tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes(b"x")
    rows = '{"path": "a.mp4", "n": 1, "_captions": "no list", "_unreadable": "why"}\n'
    (tmp_path / "m.jsonl").write_text(rows + '{"path": "b.mp4", "_captions": 2}\n')
    with caplog.at_level(logging.WARNING):
        found = {source.name: source.meta for source in find_sources([str(tmp_path / "m.jsonl")])}
    assert found == {"a.mp4": {"n": 1}, "b.mp4": {}}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "_captions" in told[0]
    assert "_unreadable" in told[0]


def test_locations_that_parquet_holds_as_bytes_are_text(tmp_path):
    pq.write_table(pa.table({"path": [b"a.mp4", "é.mp4".encode()], "n": [1, 2]}), tmp_path / "m.parquet")
    assert [target.rpartition("/")[2] for _, target, _ in read_manifest(str(tmp_path / "m.parquet"))] == [
        "a.mp4",
        "é.mp4",
    ]


def _flipped(path):
    pq.write_table(pa.table({"path": [f"{number}.mp4" for number in range(99)]}), path, compression="none")
    data = bytearray(path.read_bytes())
    for at in range(4, 24):  # the header of the first page
        data[at] ^= 0xFF
    path.write_bytes(data)


def _twice(path):
    columns = [pa.array(["a.mp4"]), pa.array(["x"]), pa.array(["y"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["path", "caption", "caption"]), path)


def _far_future(path):
    pq.write_table(pa.table({"path": ["a.mp4"], "day": pa.array([10**8], pa.date32())}), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [(_flipped, "as Parquet"), (_far_future, "as Parquet: date"), (_twice, "column 'caption' comes twice")],
)
def test_a_parquet_that_cannot_be_read_is_named(tmp_path, write, message):
    write(tmp_path / "m.parquet")
    with pytest.raises(InputError, match=rf"m\.parquet.*{message}"):
        list(read_manifest(str(tmp_path / "m.parquet")))


def test_a_row_that_names_a_folder_says_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "x.csv").write_text("path,caption\n.,x\n")
    with pytest.raises(InputError, match=r"x\.csv, line 2: .* is a folder; name its files"):
        find_sources([str(tmp_path / "x.csv")])


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_manifest_says_is_kept_whichever_input_comes_first(tmp_path, order):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "x.csv").write_text("path,licence\na.mp4,CC0\n")
    (source,) = find_sources([str(tmp_path / "x.csv"), str(tmp_path / "a.mp4")][::order])
    assert source.meta == {"licence": "CC0"}


def test_rows_that_contradict_are_told(tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "x.csv").write_text("path,licence,n\na.mp4,CC0,1\na.mp4,BY,1\n")
    with caplog.at_level(logging.WARNING):
        (source,) = find_sources([str(tmp_path / "x.csv")])
    assert source.meta["licence"] == "BY"
    assert "a.mp4 is described twice, and not alike: licence; the later is used" in caplog.text
