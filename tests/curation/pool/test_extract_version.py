"""Code behind the extraction that changed without a new `EXTRACT_VERSION` would mix two extractions in one pool."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.curation.recipe import EXTRACT_VERSION

ROOT = Path(__file__).parents[3]
RECORD = Path(__file__).with_name("extract_version.json")
STARTS = ("pipelines.curation.pool.measure", "pipelines.curation.pool.cut", "pipelines.curation.pool.joining")
REMEDY = (
    "the code that extraction runs has changed. If an unchanged recipe now gives other bytes, scores or spans, raise "
    "EXTRACT_VERSION in pipelines/curation/recipe.py. Then, or if it gives the same, record the code: "
    "python tests/curation/pool/test_extract_version.py"
)


def test_the_version_belongs_to_the_code():
    recorded = json.loads(RECORD.read_text())
    assert recorded == {"version": EXTRACT_VERSION, "code": code_digest()}, REMEDY


def test_every_stage_of_extraction_is_looked_at_and_nothing_above_it():
    names = set(modules())
    for part in ("skyreels.media.decode", "skyreels.media.encode", "pipelines.curation.pool.segments"):
        assert part in names
    assert "pipelines.curation.visual.motion" in names
    assert "pipelines.curation.audio.vad" in names
    assert not any(name.startswith(("jobs", "pipelines.training", "model")) for name in names)


def test_only_what_runs_counts():
    """Comments, docstrings, imports and the file that a function stands in may change."""
    before = digest(
        ['"""A."""\nimport os\n\ndef f(x):\n    """Doc."""\n    return x + 1  # why\n', "def g():\n    return 2\n"]
    )
    moved = digest(["def g():\n    return 2\n\n\ndef f(x):\n    return x + 1\n"])
    assert moved == before
    assert digest(["def g():\n    return 2\n\ndef f(x):\n    return x + 2\n"]) != before


def code_digest() -> str:
    return digest([_file(name).read_text() for name in modules()])


def digest(sources: list[str]) -> str:
    """Of all statements at the top of the files, in an order that does not depend on where they stand."""
    dumps = sorted(ast.dump(statement) for source in sources for statement in _statements(ast.parse(source)))
    return hashlib.sha256("\n".join(dumps).encode()).hexdigest()[:16]


def modules() -> list[str]:
    """The modules of this repository that the extraction's children import, and what those import."""
    found, waiting = set(), list(STARTS)
    while waiting:
        name = waiting.pop()
        if name not in found and _file(name).exists():
            found.add(name)
            waiting += _imported(ast.parse(_file(name).read_text()))
    return sorted(found)


def _file(module: str) -> Path:
    place = Path(*module.split("."))
    place = Path("platform") / place if module.startswith("skyreels") else place
    package = ROOT / place / "__init__.py"
    return package if package.exists() else ROOT / place.with_suffix(".py")


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("pipelines", "skyreels")):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for statement in tree.body:
        version = isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "EXTRACT_VERSION"
        if version or isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            yield statement


if __name__ == "__main__":
    RECORD.write_text(json.dumps({"version": EXTRACT_VERSION, "code": code_digest()}) + "\n")
    sys.stdout.write(RECORD.read_text())
