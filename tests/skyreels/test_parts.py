"""Work in parts: each is done and committed once; a store that fails costs its part alone; a rerun does the rest."""

import errno
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from skyreels.commits import Commit, CommitLog, describe
from skyreels.parts import Incomplete, Part, Resources, committed, run_in_process, run_parts
from skyreels.storage import Storage


@dataclass
class _Squares:
    """Writes the squares of a part's numbers; parts named in `broken` meet a full disk."""

    root: str
    broken: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        Path(self.root, f"made-{os.getpid()}-{id(self)}").touch()

    def __call__(self, part: Part) -> dict[str, int]:
        if part.part_id in self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        store = Storage(self.root)
        numbers = json.loads(part.work)
        name = f"squares/{part.part_id}.json"
        with store.staged(name) as path:
            path.write_text(json.dumps([number**2 for number in numbers]))
            file = describe(name, path)
        CommitLog(store).commit(Commit(part_id=part.part_id, files=(file,)))
        return {"count": len(numbers)}


def _parts(count=6):
    return [Part(f"p{place}", json.dumps(list(range(place + 1)))) for place in range(count)]


def _written(root):
    return {path.stem: json.loads(path.read_text()) for path in Path(root, "squares").iterdir()}


def _makes(root):
    return len(list(Path(root).glob("made-*")))


@pytest.mark.parametrize("resources", [Resources(cpus=0.5), Resources(cpus=0.5, workers=2)])
def test_every_part_is_done_once_by_few_workers(ray_cluster, tmp_path, resources):
    make = partial(_Squares, str(tmp_path))
    outcomes = list(committed(run_parts(_parts(), make, resources), str(tmp_path)))
    assert {outcome.part_id: outcome.facts["count"] for outcome in outcomes} == {f"p{n}": n + 1 for n in range(6)}
    assert _written(tmp_path) == {f"p{n}": [k**2 for k in range(n + 1)] for n in range(6)}
    assert CommitLog(Storage(str(tmp_path))).done() == {f"p{n}" for n in range(6)}
    assert 1 <= _makes(tmp_path) <= 4  # a worker per process or actor, not per part


def test_a_loop_does_the_same(ray_cluster, tmp_path):
    near, far = tmp_path / "near", tmp_path / "far"
    for folder in (near, far):
        folder.mkdir()
    list(run_in_process(_parts(), partial(_Squares, str(near))))
    list(run_parts(_parts(), partial(_Squares, str(far)), Resources(cpus=0.5)))
    assert _written(near) == _written(far)


def _memory(part):
    """What the node keeps free for the task that this is."""
    import ray

    return {"bytes": ray.get_runtime_context().get_assigned_resources()["memory"]}


@pytest.mark.parametrize("share", [0.3, 1.5])
def test_a_task_has_the_memory_that_it_asks_for_or_a_node_to_itself(ray_cluster, caplog, share):
    import ray

    largest = int(ray.cluster_resources()["memory"])
    wanted = int(largest * share)
    outcomes = list(run_parts(_parts(2), lambda: _memory, Resources(cpus=0.5, memory_bytes=wanted)))
    assert {outcome.facts["bytes"] for outcome in outcomes} == {min(wanted, largest)}
    assert ("no node has more than" in caplog.text) == (share > 1)


def test_a_full_disk_costs_its_part_and_the_next_run_does_it(ray_cluster, tmp_path):
    broken = partial(_Squares, str(tmp_path), frozenset({"p2", "p4"}))
    done = []
    with pytest.raises(Incomplete, match=r"2 of 6 parts could not be written to ") as caught:
        for outcome in committed(run_parts(_parts(), broken, Resources(cpus=0.5)), str(tmp_path)):
            done.append(outcome.part_id)
    assert sorted(done) == ["p0", "p1", "p3", "p5"]
    assert "part p2: disk_full: [Errno 28] No space left" in str(caught.value)
    assert "part p4: disk_full: " in str(caught.value)
    log = CommitLog(Storage(str(tmp_path)))
    left = [part for part in _parts() if part.part_id not in log.done()]
    assert [part.part_id for part in left] == ["p2", "p4"]
    list(committed(run_parts(left, partial(_Squares, str(tmp_path)), Resources(cpus=0.5)), str(tmp_path)))
    assert len(_written(tmp_path)) == 6


def test_what_is_wrong_with_the_work_itself_ends_the_run(ray_cluster, tmp_path):
    bad = [Part("p0", "no numbers")]
    with pytest.raises(json.JSONDecodeError):
        list(run_in_process(bad, partial(_Squares, str(tmp_path))))
    with pytest.raises(Exception, match="JSONDecodeError"):
        list(run_parts(bad, partial(_Squares, str(tmp_path)), Resources(cpus=0.5)))


def test_nothing_to_do_needs_no_cluster(tmp_path):
    assert list(run_parts([], partial(_Squares, str(tmp_path)))) == []
