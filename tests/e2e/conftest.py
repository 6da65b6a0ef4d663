"""A small world, rendered and curated once for all processes of a test run."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_world(made_once):
    """Twelve short files of every kind: clean, cut, faulty, duplicated, sound alone."""
    from pipelines.synthesis.world import plan_world, render_world

    def render(folder):
        render_world(folder, 12, 3, size=(128, 128), seconds=2.5)
        assert len(plan_world(12, 3)) == 12

    return made_once("world", render)


@pytest.fixture(scope="session")
def curated(small_world, ray_cluster, made_once):
    """The small world, curated; tests that change it copy it first."""
    from jobs import curate

    def run(output):
        recipe = str(Path(__file__).with_name("everything.yaml"))
        words = ["--input", str(small_world), "--output", str(output), "--recipe", recipe]
        assert curate.main([*words, "--no-tracking", "--quiet"]) == 0

    return made_once("curated", run)
