"""The order, limits and resume of `benchmarks/gpu.sh`, with an interpreter that only notes what it was asked."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


@pytest.fixture
def run(tmp_path):
    """run("sparse", ...) gives (exit code, what was said, sections that were begun)."""
    interpreter, begun = tmp_path / "python", tmp_path / "begun.txt"
    interpreter.write_text(f'#!/bin/sh\necho "$2" >> {begun}\n[ "$2" != sparse ] || sleep 60\n[ "$2" != joint ]\n')
    interpreter.chmod(0o755)

    def call(*words, **variables):
        begun.write_text("")
        environment = {**os.environ, "PYTHON": str(interpreter), **variables}
        done = subprocess.run([SCRIPT, tmp_path / "out", *words], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, [name for name in begun.read_text().split() if name != "report"]

    return call


def test_what_was_never_measured_comes_first_and_a_section_fails_alone(run):
    code, said, begun = run("blocks", "joint", "kernel")
    assert begun == ["blocks", "joint", "kernel"]
    assert code == 1
    assert ", ended with 1" in said
    usual = [line.partition(":")[0] for line in run(BUDGET="0")[1].splitlines()]
    assert usual == ["elementwise", "streamed", "refiner", "mmdit", "blocks", "memory", "joint", "kernel", "sparse"]


def test_a_section_stops_at_its_limit_and_what_is_there_is_not_made_again(run):
    code, said, begun = run("sparse=6", "refiner")
    assert code == 1
    assert begun == ["sparse", "refiner"]
    assert "ended with 124 (time limit)" in said
    code, said, begun = run("refiner")
    assert (code, begun) == (0, [])
    assert "refiner: there" in said
    assert run("refiner", AGAIN="1")[2] == ["refiner"]


def test_wrong_words_are_refused_before_anything_runs(run):
    for words, told in ((("fast",), "no section fast"), (("sparse=x",), "give the limit in seconds")):
        code, said, begun = run("blocks", *words)
        assert (code, begun) == (2, [])
        assert told in said
