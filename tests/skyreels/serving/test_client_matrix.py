"""OpenAI's clients of three ages, each in a folder of its own, in one and the same session."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyreels.serving.config import ServingConfig
from skyreels.serving.store.keys import Keys
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.conftest import running

pytestmark = pytest.mark.slow

SESSION = Path(__file__).with_name("openai_session.py")
INSTALLED = "3.57.0"
OLDER = ("2.3.0", "2.36.0")
NEEDED = ("distro", "jiter", "sniffio")  # by the older ones, beside what this project has


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """(address, key)."""
    config = ServingConfig(files=str(tmp_path_factory.mktemp("files")), grace_s=5, queue_per_owner=50)
    store = config.open_store()
    key = Keys(store).add("me")
    store.close()
    with running(Clips(), config) as url:
        yield url, key


@pytest.fixture(scope="module")
def release(made_once):
    """`release(version)`: a folder with that client, from the package index."""

    def folder_of(version):
        def install(folder):
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            done = subprocess.run([*words, f"openai=={version}", *NEEDED], capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"openai {version} cannot be had from the package index here: {done.stderr[-300:]}")

        return made_once(f"openai-{version}", install)

    return folder_of


def session(keyed, path):
    environment = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, "-W", "ignore", str(SESSION), *keyed]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", [*OLDER, INSTALLED])
def test_every_client_holds_the_same_session(keyed, release, version):
    seen = session(keyed, "" if version == INSTALLED else str(release(version)))
    assert seen.pop("version") == version
    edits = seen.pop("edits", None)
    assert edits == (None if version == "2.3.0" else ["completed", "completed"]), "2.3 cannot ask for any"
    assert seen == {
        "first": ["completed", 100, "96x64", "2.0", 11, {"shot": "4"}],
        "film": "ftyp",
        "small": "ffd8",
        "task": "i2v",
        "masked": True,
        "remixed": True,
        "refused": "out_of_memory",
        "wrong": ["size", "invalid_value"],
        "listed": True,
        "deleted": True,
        "gone": 404,
    }
