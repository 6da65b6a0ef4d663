"""A small world, rendered and curated once per session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """Twelve short files of every kind: clean, cut, faulty, duplicated, sound alone."""
    from pipelines.synthesis.world import plan_world, render_world

    folder = tmp_path_factory.mktemp("world")
    render_world(folder, 12, 3, size=(128, 128), seconds=2.5)
    assert len(plan_world(12, 3)) == 12
    return folder


@pytest.fixture(scope="session")
def curated(small_world, ray_cluster, tmp_path_factory):
    """The small world, curated; tests that change it copy it first."""
    from jobs import curate

    output = tmp_path_factory.mktemp("curated")
    recipe = str(Path(__file__).with_name("everything.yaml"))
    words = ["--input", str(small_world), "--output", str(output), "--recipe", recipe]
    assert curate.main([*words, "--no-tracking", "--quiet"]) == 0
    return output
