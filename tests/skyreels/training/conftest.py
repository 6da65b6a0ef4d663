"""The toy that the engine trains here, and quick polls of Ray Train."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


@pytest.fixture(scope="session")
def toy():
    """The module toy.py; what is made of its classes reaches Ray's workers by value."""
    from ray import cloudpickle

    path = Path(__file__).with_name("toy.py")
    spec = importlib.util.spec_from_file_location("engine_toy", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_toy"] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


@pytest.fixture
def tensors_of():
    """Every tensor of a committed checkpoint by file and key, and its facts."""
    from safetensors.torch import load

    from skyreels.training.checkpoints import Checkpoints, folder

    def read(run, step):
        checkpoints = Checkpoints.of(str(run))
        files = checkpoints.log.read(folder(step)).files
        return {
            (file.name.split("/")[1], key): tensor
            for file in files
            for key, tensor in load(checkpoints.storage.read(file.name)).items()
        }

    return read
