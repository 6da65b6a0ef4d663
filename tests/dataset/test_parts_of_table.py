"""A table in one file or in parts: the one that was published last is read, whatever lies beside it."""

import pyarrow as pa
import pytest

from pipelines.dataset.parts_of_table import (
    column_between,
    files_of,
    fingerprint,
    is_published,
    is_there,
    publish,
    publish_file,
    table_of,
    write_part,
)
from pipelines.dataset.tables import encode
from skyreels.storage import DamageError, Storage

NAME = "manifest.parquet"


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    root = str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('s3_root')}/dataset"
    return Storage(root)


def _part(keys, **columns):
    return pa.table({"key": pa.array(keys, pa.string()), **columns})


def _publish(store, *parts):
    files = [write_part(store, NAME, number, part) for number, part in enumerate(parts)]
    publish(store, NAME, files)
    return files


def test_parts_are_nothing_until_they_are_published(store):
    files = [write_part(store, NAME, 0, _part(["a"]))]
    assert not is_there(store, NAME)
    with pytest.raises(FileNotFoundError, match=NAME):
        files_of(store, NAME)
    publish(store, NAME, files)
    assert is_there(store, NAME)
    assert is_published(store, NAME, files)
    assert table_of(store, NAME)["key"].to_pylist() == ["a"]


def test_one_form_takes_the_place_of_the_other(store):
    publish_file(store, NAME, encode(_part(["a", "b"])))
    first = fingerprint(store, NAME)
    files = _publish(store, _part(["a"], score=[0.5]), _part(["c"]))
    assert table_of(store, NAME).to_pylist() == [{"key": "a", "score": 0.5}, {"key": "c", "score": None}]
    assert not store.exists(NAME)
    assert fingerprint(store, NAME) != first
    again = _publish(store, _part(["a"], score=[0.5]), _part(["d"]))
    assert again[0] == files[0], "a part that is as it was keeps its name"
    assert len([name for name in store.names("manifest") if name.endswith(".parquet")]) == 2
    publish_file(store, NAME, encode(_part(["a", "b"])))
    assert (table_of(store, NAME)["key"].to_pylist(), fingerprint(store, NAME)) == (["a", "b"], first)
    assert store.names("manifest") == []


def test_columns_are_read_between_keys(store):
    _publish(store, _part(["a", "b"], pack=["p", "q"]), _part([]), _part(["c", "d"], pack=["r", "s"]))
    assert column_between(store, NAME, "key", "b", "c") == ["b", "c"]
    assert column_between(store, NAME, "pack", "c", None) == ["r", "s"]


def test_a_damaged_part_or_index_is_named(store):
    (file,) = _publish(store, _part([f"{i:05d}" for i in range(1000)]))
    data = bytearray(store.read(f"manifest/{file}"))
    data[len(data) // 3] ^= 255
    store.write(f"manifest/{file}", bytes(data))
    with pytest.raises(DamageError, match=file):
        table_of(store, NAME)
    store.write("manifest/_parts.json", b'{"files"')
    with pytest.raises(DamageError, match=r"_parts\.json is damaged"):
        table_of(store, NAME)
