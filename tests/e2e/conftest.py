"""A small world, rendered once per session."""

import pytest


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """Twelve short files of every kind: clean, cut, faulty, duplicated, sound alone."""
    from pipelines.synthesis.world import plan_world, render_world

    folder = tmp_path_factory.mktemp("world")
    render_world(folder, 12, 3, size=(128, 128), seconds=2.5)
    assert len(plan_world(12, 3)) == 12
    return folder
