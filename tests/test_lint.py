"""`make lint`, beside the other tests: mypy alone keeps one core busy for a minute."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.e2e
@pytest.mark.slow
def test_formatting_types_and_directions_of_imports():
    words = ["make", "lint", "--assume-old=.venv/.installed", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
