"""Every file that a document or a docstring names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("pipelines", "platform", "model", "jobs", "cluster", "tests", "benchmarks", "docs")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
FILES = [f"/{path.relative_to(ROOT).as_posix()}" for top in TOPS for path in (ROOT / top).rglob("*") if path.is_file()]
_WHOLE = re.compile(rf"(?:{'|'.join(TOPS)})/[\w./-]*\w/?")
_SHORT = re.compile(r"[\w./-]+\.py")


def absent(text):
    """What is named in backticks and is not there: paths from the top, and ends of paths to modules."""
    for word in re.findall(r"`([^`\n]+)`", text):
        if _WHOLE.fullmatch(word):
            if not (ROOT / word).exists():
                yield word
        elif _SHORT.fullmatch(word) and not any(name.endswith(f"/{word}") for name in FILES):
            yield word


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_files_it_names_are_there(path):
    assert list(absent(path.read_text())) == []


def test_the_files_that_code_names_are_there():
    found = {path: list(absent(path.read_text())) for path in CODE if path != Path(__file__)}
    assert {path.relative_to(ROOT).as_posix(): names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_its_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_a_file_that_is_not_there_is_found():
    text = "`pipelines/curation/nowhere.py`, `nowhere.py`, `model/generator.py`, `generator.py`, `cluster/`, `my.yaml`"
    assert list(absent(text)) == ["pipelines/curation/nowhere.py", "nowhere.py"]
