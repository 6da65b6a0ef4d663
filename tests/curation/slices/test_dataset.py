"""A pool in slices makes the dataset that it makes as a whole; a rerun of a killed one ends with the same bytes."""

import hashlib
import io
import json
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.curation import annotators, layers
from pipelines.curation.dataset import finish_dataset
from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import extend_plan
from pipelines.curation.pool.read import read_pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Clip, Kind, Rejection, Source, SourceReport, Status, clip_key
from pipelines.curation.slices.dataset import finish_slices
from pipelines.curation.slices.pool import slice_of, slice_pool
from pipelines.curation.summary import Work
from pipelines.dataset.exchange import Steps
from pipelines.dataset.parts_of_table import table_of
from pipelines.dataset.reader import open_dataset
from pipelines.dataset.tables import encode
from skyreels.cluster import LazyCluster
from skyreels.commits import Commit, CommitLog, describe
from skyreels.leftovers import sweep
from skyreels.shards import open_shards
from skyreels.storage import DamageError, Storage

RECIPE = Recipe.model_validate({
    "extract": {"parts": {"max_sources": 3}},
    "filters": {"sharp": {"score": "visual.sharpness", "min": 0.3}},
    "dedup": {"semantic_cosine": 0.9},
    "captions": {"backend": "measured"},
    "shards": {"pack_bytes": 4000},
})  # fmt: skip
SLICES = 3


@pytest.fixture
def root(tmp_path):
    """Forty pictures, some of them twice and one unreadable; two sources were done again with other bytes."""
    store = Storage(str(tmp_path / "out"))
    sources = [Source.at(f"/in/{i:03d}.jpg", Kind.IMAGE, 100, {"license": f"l{i}"}) for i in range(40)]
    plan = extend_plan(store.sub("pool"), sources, RECIPE.extract)
    for part in plan.parts:
        _commit(store.sub("pool"), part, 0)
    again = extend_plan(store.sub("pool"), sources[4:6], RECIPE.extract, attempt=2)
    for part in again.parts[len(plan.parts) :]:
        _commit(store.sub("pool"), part, 1)
    seen = [source.model_copy(update={"meta": {"license": "other"}}) for source in sources[:2]]
    extend_plan(store.sub("pool"), [*seen, *sources[2:]], RECIPE.extract)
    return store


def _commit(pool, part, again):
    reports, pictures = [], {}
    for source in part.sources:
        number = int(source.uri[-7:-4])
        content = number - number % 5 if number % 5 < 2 else number
        report = SourceReport(source=source, status=Status.OK, attempts=part.attempt, sha256=f"{content}-{again}")
        if number == 7:
            why = Rejection(stage="probe", reason="empty_file", remedy="fetch it again")
            report = report.model_copy(update={"status": Status.FAILED, "rejection": why})
        else:
            key = clip_key(source.source_id, 0)
            scores = {"visual.sharpness": (number % 10) / 10}
            random = np.random.default_rng(content + 100 * again)
            clip = Clip(key=key, source_id=source.source_id, kind=Kind.IMAGE, width=64, height=64, frames=1,
                        scores=scores, hashes=[int(random.integers(2**63))])  # fmt: skip
            report.clips.append(clip)
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "JPEG", quality=20)
            pictures[key] = {"jpg": buffer.getvalue()}
        reports.append(report)
    with open_shards(pool, f"shards/{part.part_id}") as shards:
        for key in sorted(pictures):
            shards.add(key, pictures[key])
    clips = sorted((clip for report in reports for clip in report.clips), key=lambda clip: clip.key)
    files = [*shards.files]
    for folder, table in (
        ("clips", tables.clip_table(tables.clip_rows(part.part_id, clips, shards.members))),
        ("sources", tables.source_table(tables.source_rows(part.part_id, reports))),
    ):
        with pool.staged(f"{folder}/{part.part_id}.parquet") as path:
            path.write_bytes(encode(table))
            files.append(describe(f"{folder}/{part.part_id}.parquet", path))
    CommitLog(pool).commit(Commit(part_id=part.part_id, files=tuple(files), facts={"extract": "0", "sources": {}}))


def _sliced(root):
    return slice_pool(Steps(root.sub("work")), root.sub("pool"), RECIPE.extract, SLICES)


def _whole(root):
    plan = extend_plan(root.sub("pool"), [], RECIPE.extract, write=False)
    return read_pool(root.sub("pool"), plan)


def _rows(table, by):
    return sorted((row for row in table.to_pylist()), key=lambda row: tuple(str(row[name]) for name in by))


def test_slices_hold_what_the_pool_holds(root):
    slices, whole = _sliced(root), _whole(root)
    for what, by in (("clips", ["key"]), ("sources", ["source_id"])):
        found = [row for pool in slices for row in getattr(pool, what).to_pylist()]
        assert found == _rows(getattr(whole, what), by)
    for index, pool in enumerate(slices):
        assert set(slice_of(pool.sources["source_id"].to_pylist(), SLICES)) == {index}
    assert json.loads(slices[0].sources["meta"][0].as_py()).keys() == {"license"}


def test_a_dataset_in_slices_is_the_one_of_the_whole_pool(root):
    summary = finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    sliced = root.sub("datasets/default")
    manifest, rejects = (table_of(sliced, f"{name}.parquet") for name in ("manifest", "rejects"))
    clips = open_dataset(sliced.root).clips
    fill_layers = annotators.before_selection(RECIPE, root)
    assert all(layers.unanswered(layer, _whole(root).clips.to_pylist(), root) == [] for layer in fill_layers)
    whole = finish_dataset(root, [_whole(root)], RECIPE, frozenset(), None, 0.0, Work(), quiet=True)
    one = table_of(sliced, "manifest.parquet")
    assert pq.read_table(f"{sliced.root}/manifest.parquet") == one  # one file again
    placed = {"pack_id", "shard", "members"}
    assert _without(manifest, placed) == _without(one, placed)
    assert [clip.key for clip in clips] == one["key"].to_pylist()
    by = ["source_id", "key", "start_s"]
    assert _rows(rejects, by) == _rows(table_of(sliced, "rejects.parquet"), by)
    for name in ("sources", "failed_sources", "clips", "kept", "buckets", "rejected", "seconds_kept"):
        assert getattr(summary, name) == getattr(whole, name)


def _without(table, names):
    return [{name: value for name, value in row.items() if name not in names} for row in table.to_pylist()]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(root, monkeypatch):
    """Killed while slices are finished, with a manifest half written: no reader sees it."""
    finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    expected = _hashes(root)
    _forget_dataset(root)
    done = []

    def killed(*arguments, **named):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return finish_slice(*arguments, **named)

    from pipelines.curation.slices.finish import finish_slice

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipelines.curation.slices.dataset.finish_slice", killed)
        finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    assert list((_folder(root) / "manifest").glob("*.parquet"))
    with pytest.raises(FileNotFoundError):
        open_dataset(str(_folder(root)))
    finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    assert _hashes(root) == expected
    assert not (_folder(root) / "_work").exists() or not list((_folder(root) / "_work").rglob("*.parquet"))


def test_a_finished_dataset_is_left_alone(root):
    finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    report = (_folder(root) / "report.html").read_bytes()
    expected = _hashes(root)
    finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    assert (_hashes(root), (_folder(root) / "report.html").read_bytes()) == (expected, report)


def test_a_part_of_the_manifest_that_is_damaged_is_named(root):
    finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    part = sorted((_folder(root) / "manifest").glob("*.parquet"))[1]
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 255
    part.write_bytes(bytes(data))
    with pytest.raises(DamageError, match=part.name):
        open_dataset(str(_folder(root)))


PATIENCE_S = 120.0


@pytest.mark.slow
def test_a_dead_worker_a_lost_node_and_a_full_object_store_cost_their_tasks(ray_cluster, root, tmp_path, monkeypatch):
    """A worker is killed while it selects, then a node while it packs: both have written and not yet said so."""
    finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
    expected = _hashes(root)
    _forget_dataset(root)
    killed = tmp_path / "killed"
    killed.mkdir()
    with _second_node() as node_id, _full_object_store():
        disturbed = {"traits": _WorkerDies(str(killed)), "finished": _NodeDies(str(killed), node_id)}
        monkeypatch.setattr(_Disturbed, "by", disturbed)
        monkeypatch.setattr("pipelines.curation.slices.dataset.Steps", _Disturbed)
        finish_slices(root, _sliced(root), RECIPE, frozenset(), None, 0.0, Work())
        _wait(lambda: node_id not in _alive(), "the node is still there")
    assert {path.name for path in killed.iterdir()} == {"worker", "node"}
    sweep(_folder(root))  # as every run begins: who is killed while it writes leaves a hidden file
    assert _hashes(root) == expected


class _Disturbed(Steps):
    """Steps in this process, and on the cluster where something happens to their tasks."""

    by: Any = {}

    def run(self, name, do, slices):
        if name not in self.by:
            return super().run(name, do, slices)
        with LazyCluster() as cluster:
            return Steps(self.store, cluster).run(name, _Then(do, self.by[name]), slices)


@dataclass(frozen=True)
class _Then:
    """A slice's task to which something happens when it has written its files, before that is known."""

    do: Any
    happens: Any

    def __call__(self, index):
        facts = self.do(index)
        self.happens(index)
        return facts


@dataclass(frozen=True)
class _WorkerDies:
    folder: str

    def __call__(self, index):
        if index == 1 and not Path(self.folder, "worker").exists():
            Path(self.folder, "worker").touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class _NodeDies:
    """The node goes with all its processes when it has a task; the others' tasks wait for that."""

    folder: str
    node_id: str

    def __call__(self, index):
        import ray

        gone = Path(self.folder, "node")
        if ray.get_runtime_context().get_node_id() == self.node_id:
            gone.touch()
            raylet = psutil.Process().parent()
            others = [process for process in raylet.children(recursive=True) if process.pid != os.getpid()]
            for process in [raylet, *others, psutil.Process()]:
                process.kill()
        _wait(gone.exists, "no task came to the second node")


@contextmanager
def _second_node():
    """The id of another node of the cluster, with processes and an object store of its own."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    nodes.head_node = ray._private.worker._global_node
    second = nodes.add_node(wait=False, num_cpus=2, object_store_memory=100 << 20, node_ip_address="127.0.0.1")
    try:
        _wait(lambda: second.node_id in _alive(), "the node did not start")
        yield second.node_id
    finally:
        second.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def _alive():
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@contextmanager
def _full_object_store():
    """More than it takes, most of it in use, so that the rest is spilled to disk."""
    import ray

    node = ray._private.worker._global_node
    refs = [ray.put(np.full(64 << 20, number, np.uint8)) for number in range(9)]
    used = ray.get(refs[-6:])
    assert list(Path(node.get_session_dir_path()).rglob("ray_spilled_objects*/*"))
    yield
    assert [int(one[-1]) for one in used] == [3, 4, 5, 6, 7, 8]


def _wait(until, otherwise):
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)


def _folder(root):
    return Path(root.root) / "datasets" / "default"


def _forget_dataset(root):
    for name in root.names("datasets"):
        root.delete(name)


def _hashes(root):
    return {
        str(path.relative_to(_folder(root))): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("shards/**/*.tar", "manifest/*", "rejects/*", "recipe.yaml")
        for path in sorted(_folder(root).glob(pattern))
    }
