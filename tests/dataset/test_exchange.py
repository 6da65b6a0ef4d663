"""Steps over slices: every row reaches its receiver once, in order; what is done stays done; damage is mended."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset.exchange import Steps, batches, read, receive, send, write
from skyreels.parts import Incomplete
from skyreels.storage import DamageError, Storage


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=20), min_size=1, max_size=4))
def test_every_row_reaches_its_receiver_in_order(tmp_path_factory, sent):
    store = Storage(str(tmp_path_factory.mktemp("exchange")))
    for sender, receivers in enumerate(sent):
        rows = pa.table({"row": pa.array([f"{sender}-{i}" for i in range(len(receivers))], pa.string())})
        send(store, f"step/{sender:06d}", rows, np.array(receivers, np.int64))
    for receiver in range(5):
        expected = [f"{s}-{i}" for s, rs in enumerate(sent) for i, r in enumerate(rs) if r == receiver]
        assert receive(store, "step", len(sent), receiver)["row"].to_pylist() == expected


def test_rows_come_back_in_batches_from_s3(s3_root):
    store = Storage(f"{s3_root}/work")
    write(store, "step/000000", pa.table({"a": list(range(7)), "b": list("abcdefg")}))
    assert [table["a"].to_pylist() for table in batches(store, "step/000000", 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert read(store, "step/000000", ["b"]).column_names == ["b"]


def test_what_is_done_is_not_done_again(tmp_path):
    steps, done = Steps(Storage(str(tmp_path))), []

    def count(index):
        done.append(index)
        return {"index": index}

    assert steps.run("step", count, 3) == steps.run("step", count, 3) == [{"index": i} for i in range(3)]
    assert done == [0, 1, 2]


def test_a_store_that_fails_costs_its_slice_and_the_rest_is_done(tmp_path):
    steps = Steps(Storage(str(tmp_path)))

    def full(index):
        if index == 1:
            raise OSError(28, "no space")
        return {}

    with pytest.raises(Incomplete, match="1 of 3 parts"):
        steps.run("step", full, 3)
    assert sorted(path.stem for path in tmp_path.glob("step/*.json")) == ["000000", "000002"]


@pytest.mark.parametrize("how", ["flipped", "gone", "empty"])
def test_a_damaged_file_is_made_anew_by_the_next_run(tmp_path, how):
    store = Storage(str(tmp_path))
    steps = Steps(store)

    def make(index):
        write(store, f"made/{index:06d}", pa.table({"a": np.arange(1000) + index}))
        return {}

    def use(index):
        return {"sum": int(np.sum(read(store, f"made/{index:06d}")["a"].to_numpy()))}

    steps.run("made", make, 2)
    path = tmp_path / "made" / "000001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.unlink() if how == "gone" else path.write_bytes(b"" if how == "empty" else bytes(data))
    with pytest.raises(DamageError, match=f"{path} is damaged"):
        steps.run("used", use, 2)
    steps.run("made", make, 2)
    assert [fact["sum"] for fact in steps.run("used", use, 2)] == [499_500, 500_500]
    assert json.loads((tmp_path / "used" / "000001.json").read_text()) == {"sum": 500_500}
