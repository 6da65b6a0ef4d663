"""The house's limits: how long a function, a file and a folder's listing may be, and how things are called."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "pipelines", "platform", "jobs")
CODE = sorted(path for room in (*ROOMS, "tests", "benchmarks") for path in (ROOT / room).rglob("*.py"))

LONGEST_FUNCTION, LONGEST_FILE, LONGEST_LISTING = 60, 400, 12
LONGER_LISTINGS = {
    "pipelines/curation/audio": (15, "one measurement a file, all opened by scores.py alone"),
    "pipelines/curation/visual": (17, "one measurement a file, all opened by scores.py and decode_pass.py alone"),
    "pipelines/synthesis": (27, "a film's parts (light, bodies, words, sound) and the worlds made of them"),
    "platform/skyreels": (13, "what everything stands on, one promise a file"),
    "platform/skyreels/media": (24, "one question about a file each; callers open probe, decode, encode and cut"),
    "platform/skyreels/training": (
        24,
        "the engine: one promise a file (resume, guard, board, stop); callers open fit.py",
    ),
}
"""Folders with more modules than a listing should have: how many they may have, and why. Lower them, never raise."""

SAYS_NOTHING = {"utils", "util", "helpers", "common", "base", "misc"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_looked_at(room):
    assert sum(path.is_relative_to(ROOT / room) for path in CODE) > 5


def test_no_function_is_longer_than_a_screen_or_two():
    found = [
        f"{_name(path)}:{node.lineno} {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert found == [], f"functions over {LONGEST_FUNCTION} lines: cut them where they do another thing"


def test_no_file_is_longer_than_a_few_screens():
    lengths = {
        _name(path): len(path.read_text().splitlines()) for path in CODE if path.relative_to(ROOT).parts[0] in ROOMS
    }
    assert [name for name, length in lengths.items() if length > LONGEST_FILE] == []


def test_no_file_is_called_what_says_nothing():
    assert [_name(path) for path in CODE if path.stem in SAYS_NOTHING] == []


def test_a_listing_is_a_table_of_contents():
    listed = Counter(
        _name(path.parent) for path in CODE if path.stem != "__init__" and path.relative_to(ROOT).parts[0] in ROOMS
    )
    allowed = {folder: most for folder, (most, _) in LONGER_LISTINGS.items()}
    long = {folder: count for folder, count in listed.items() if count > allowed.get(folder, LONGEST_LISTING)}
    assert long == {}, f"over {LONGEST_LISTING} modules: give them rooms, or merge what says nothing alone"
    short = [folder for folder in allowed if listed[folder] <= LONGEST_LISTING]
    assert short == [], "no exception any more: take it out"


def test_every_decision_has_a_number_of_its_own():
    names = [path.name for path in (ROOT / "docs" / "decisions").iterdir()]
    assert [name for name in names if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)] == []
    twice = [number for number, count in Counter(name[:4] for name in names).items() if count > 1]
    assert twice == []


def _name(path):
    return path.relative_to(ROOT).as_posix()
