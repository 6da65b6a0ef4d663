"""Groups found in rounds, by tasks that know a share of the pairs, are the connected components."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.curation.choice import groups as module
from pipelines.curation.choice.groups import find_groups, groups_of, nodes_of, write_pairs
from pipelines.dataset.exchange import Steps
from skyreels.storage import Storage

SLICES = 3


def _found(folder, edges, count, per_task, files=2):
    """The group of each of `count` clips, (N,): the place of its least node among all; -1 for none."""
    store = Storage(str(folder))
    slices = (np.arange(count) % SLICES).astype(np.int32)
    nodes = nodes_of([f"k{i}" for i in range(count)], slices)
    pairs = nodes[np.array(edges, np.int64).reshape(-1, 2)]
    names = [f"met/{index:06d}" for index in range(files)]
    for index, name in enumerate(names):
        write_pairs(store, name, pairs[index::files])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PER_TASK", per_task)
        groups = find_groups(Steps(store), names, len(pairs))
    found = np.full(count, -1)
    place = {node: i for i, node in enumerate(nodes.tolist())}
    for index in range(SLICES):
        mine = np.flatnonzero(slices == index)
        held, group = groups_of(store, groups, index, nodes[mine])
        found[mine[held]] = [place[node] for node in group.tolist()]
    assert groups.nodes == np.count_nonzero(found >= 0)
    return found, nodes


def _components(edges, count):
    """What each clip is connected with, as scipy tells it; None for a clip without a pair."""
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    apart = pairs[pairs[:, 0] != pairs[:, 1]]
    graph = coo_array((np.ones(len(apart)), (apart[:, 0], apart[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return [frozenset(np.flatnonzero(labels == labels[i]).tolist()) if i in apart else None for i in range(count)]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40), st.sampled_from([8, 15, 50]))
def test_groups_are_the_connected_components(tmp_path_factory, edges, per_task):
    found, nodes = _found(tmp_path_factory.mktemp("groups"), edges, 30, per_task)
    expected = _components(edges, 30)
    assert [None if one < 0 else frozenset(np.flatnonzero(found == one).tolist()) for one in found] == expected
    assert all(nodes[one] == min(nodes[list(same)]) for one, same in zip(found, expected, strict=True) if same)


def test_a_long_chain_is_one_group_after_few_rounds(tmp_path):
    order = np.random.default_rng(0).permutation(2000)
    found, _ = _found(tmp_path, np.stack([order[1:], order[:-1]], axis=1), 2000, 500)
    assert len(set(found)) == 1
    assert len(list(tmp_path.glob("large-*"))) <= 2 * np.log2(2000)
    assert len(list(tmp_path.glob("groups/*.parquet"))) == 4


def test_no_pairs_make_no_groups(tmp_path):
    assert set(_found(tmp_path, [], 5, 10)[0]) == {-1}
