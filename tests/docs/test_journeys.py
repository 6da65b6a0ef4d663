"""The journeys of docs/architecture.md: as many files as it says, each tied to one before it, and no more."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
MOST = {"A source to a shard": 17, "A sample to its loss": 18, "A prompt to an mp4": 16}
JOURNEYS = {
    found["name"]: (int(found["count"]), re.findall(r"^\d+\. `([^`]+)`", found["files"], re.MULTILINE))
    for found in re.finditer(
        r"^### (?P<name>A [^\n:]+): (?P<count>\d+) files\n(?P<files>.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
}


def test_there_are_three():
    assert JOURNEYS.keys() == MOST.keys()


@pytest.mark.parametrize("name", MOST)
def test_it_is_as_long_as_it_says_and_no_longer_than_it_was(name):
    count, files = JOURNEYS[name]
    assert count == len(files) == len(set(files)) <= MOST[name]


@pytest.mark.parametrize("name", MOST)
def test_every_file_on_the_way_is_tied_to_one_before_it(name):
    _, files = JOURNEYS[name]
    names = {file: module(file) for file in files}
    ties = {file: imported(ROOT / file) for file in files}
    for place, file in enumerate(files[1:], 1):
        before = files[:place]
        assert any(names[file] in ties[one] or names[one] in ties[file] for one in before), f"{file} comes from nowhere"


def module(file):
    return file.removeprefix("platform/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
