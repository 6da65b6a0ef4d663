"""A wheel, built as pip builds one, holds every file that the code reads, and works without the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = {"skyreels": "platform/skyreels", "model": "model", "pipelines": "pipelines", "jobs": "jobs"}
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
READ = """
import json
import jobs, model, pipelines, skyreels
from model.config import PRESETS, load_preset
from pipelines.curation import recipe as curation
from pipelines.training.curriculum import recipe as training
from pipelines.training.cost.cluster import CALIBRATIONS, cluster_of
from skyreels.training import zero
from skyreels.training.config import EngineConfig

read = {
    "presets": [load_preset(path.stem).name for path in sorted(PRESETS.glob("*.yaml"))],
    "curation": [curation.load_recipe(path.stem).name for path in sorted(curation.RECIPES.glob("*.yaml"))],
    "stages": [training.load_recipe(name, load_preset("tiny")).name for name in training.STAGES],
    "calibration": [cluster_of(path.stem, 1).name for path in sorted(CALIBRATIONS.glob("*.yaml"))],
    "deepspeed": [
        zero.load_settings(EngineConfig(steps=1, deepspeed=path.stem))["zero_optimization"]["stage"]
        for path in sorted(zero._TEMPLATES.glob("*.json"))
    ],
    "from": [module.__path__[0] for module in (skyreels, model, pipelines, jobs)],
}
print(json.dumps(read))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Its path."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def test_every_file_below_the_packages_is_in_it(wheel):
    with ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for name, room in ROOMS.items():
        files = [path for path in (REPOSITORY / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        expected = {f"{name}/{path.relative_to(REPOSITORY / room).as_posix()}" for path in files}
        assert len(expected) > 1
        assert expected <= held, f"missing: {sorted(expected - held)[:5]}"


def test_what_cluster_shows_is_what_the_packages_hold(wheel):
    with ZipFile(wheel) as archive:
        for shown, place in (("calibration", "pipelines/training/cost"), ("deepspeed", "skyreels/training")):
            files = list((REPOSITORY / "cluster" / shown).iterdir())
            assert files
            for file in files:
                assert archive.read(f"{place}/{shown}/{file.name}") == file.read_bytes()


@pytest.mark.slow
def test_its_code_finds_settings_of_every_kind_without_the_repository(wheel, tmp_path):
    installed = tmp_path / "installed"
    with ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", READ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert read.pop("from") == [str(installed / name) for name in ROOMS]
    assert {"tiny", "v4"} <= set(read["presets"])
    assert {"default", "sft"} <= set(read["curation"])
    assert {"cpu", "h100"} <= set(read["calibration"])
    assert set(read["deepspeed"]) == {3}
    assert "joint" in read["stages"]
