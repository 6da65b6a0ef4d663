import pytest

from model.config import load_preset
from pipelines.training.cost import cluster_of, with_fitting_groups
from pipelines.training.curriculum.resolve import load_stage


@pytest.fixture(scope="session")
def stage_of():
    """`stage_of("video-5", "v4", "sequence_parallel=4")`."""
    return lambda name, preset="v4", *settings: load_stage(name, load_preset(preset), settings)


@pytest.fixture(scope="session")
def planned(stage_of):
    """A stage in groups that fit, and 512 H200 that it fits on."""

    def plan(name, preset="v4", *settings, devices=512):
        cluster = cluster_of("h200", devices)
        return with_fitting_groups(stage_of(name, preset, *settings), cluster), cluster

    return plan
