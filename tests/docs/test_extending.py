"""What docs/extending.md builds: its new files and changes over a copy of the code, and its tested blocks run there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "extending.md"
_BLOCK = re.compile(r"<!-- (?P<mark>[^>]*) -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A fenced block under a comment: "new: <path>", "change: <path>" or "tested"."""

    mark: str
    language: str
    text: str


BLOCKS = [Block(**found.groupdict()) for found in _BLOCK.finditer(GUIDE.read_text())]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the code with everything that the guide adds."""
    folder = tmp_path_factory.mktemp("extended")
    for room in ("model", "pipelines", "platform", "jobs"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for block in BLOCKS:
        kind, _, path = block.mark.partition(": ")
        if kind == "new":
            assert not (ROOT / path).exists(), f"{path} is there already: the guide must add another"
            (folder / path).write_text(block.text)
        elif kind == "change":
            (folder / path).write_text(changed((folder / path).read_text(), block.text, path))
    return folder


def changed(text, diff, path):
    """`text` with a diff that has no line numbers: what it names stands there once, and is replaced."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"docs/extending.md changes what does not stand in {path} (once):\n{before}"
    return text.replace(before, after)


def ran(folder, words):
    """A Python command in the copy; it and its workers import from there."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{folder / 'platform'}"
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_guide_has_an_example_of_everything_it_promises():
    marks = [block.mark for block in BLOCKS]
    for heading in ("A task", "A score", "A stage", "A codec", "A captioner"):
        section = GUIDE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
        kinds = {block["mark"].partition(": ")[0] for block in _BLOCK.finditer(section)}
        assert "tested" in kinds, heading
        assert kinds & {"new", "change"}, heading
        assert len({mark for mark in marks if mark in section and ": " in mark}) <= 4, f"{heading} takes too many files"


def test_what_is_added_passes_as_code_of_the_house(extended):
    new = [str(extended / block.mark.split(": ")[1]) for block in BLOCKS if block.mark.startswith("new: ")]
    touched = {str(extended / block.mark.split(": ")[1]) for block in BLOCKS if block.mark.startswith("change: ")}
    files = sorted(path for path in {*new, *touched} if path.endswith(".py"))
    config = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        ran(extended, ["-m", "ruff", *command, *config, *files])


@pytest.mark.slow
@pytest.mark.e2e
def test_everything_that_is_added_works(extended):
    blocks = [(block.language, block.text) for block in BLOCKS if block.mark == "tested"]
    (extended / "blocks.json").write_text(json.dumps(blocks))
    ran(extended, [str(Path(__file__).with_name("run_blocks.py")), "blocks.json"])
