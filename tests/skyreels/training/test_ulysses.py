"""Sequences shared by four gloo ranks against one process; the checks themselves are in `ulysses_checks.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ulysses_checks.py")
CHECKS = (
    "heads_and_tokens_are_dealt_out",
    "backward_passes_are_adjoints",
    "joint",
    "video_alone",
    "audio_alone",
    "references_and_keyframes",
    "clips_of_several_lengths",
    "branches_apart_per_sample",
    "sparse_attention",
    "sparse_gates_over_dense_attention",
    "gradient_checkpointing",
    "fewer_tokens_than_ranks",
    "sampling_in_bfloat16_with_cached_text",
    "two_groups_of_two",
    "what_does_not_divide_is_refused",
)
PATIENCE_S = 200
"""More than the ranks themselves have for one collective: what hangs ends with their stacks."""


def run(folder: Path, *checks: str) -> dict[str, list[str]]:
    """What failed in each check, over all ranks."""
    folder.mkdir(exist_ok=True)
    with (folder / "errors.txt").open("w+") as errors:
        command = [sys.executable, str(PROGRAM), str(folder), *checks]
        with subprocess.Popen(command, stderr=errors, start_new_session=True) as program:
            try:
                wait(program, folder)
            finally:
                if program.returncode is None:
                    os.killpg(program.pid, signal.SIGKILL)  # the ranks too
        errors.seek(0)
        said = errors.read()
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
    failed = {check: [report[check] for report in reports if report[check] is not None] for check in checks}
    assert program.returncode == 0 or any(failed.values()), said
    return failed


def wait(program: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until the program ends, or no rank has come one step further for `PATIENCE_S`.

    A limit on the whole would measure the machine: a collective of four ranks takes some twenty changes of process,
    each as long as all others that want a core take theirs.
    """
    while program.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            program.wait(timeout=1)
        idle_s = time.time() - max(path.stat().st_mtime for path in folder.iterdir())
        assert idle_s < PATIENCE_S, f"no rank went on for {PATIENCE_S} s:\n{(folder / 'errors.txt').read_text()}"


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run(tmp_path_factory.mktemp("ranks"), *CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_four_ranks_equal_one(check: str, failures: dict[str, list[str]]) -> None:
    assert not failures[check], "\n".join(failures[check])


@pytest.mark.slow
def test_deepspeed_learns_the_weights_that_one_process_learns(tmp_path: Path) -> None:
    assert run(tmp_path, "training_under_zero_three") == {"training_under_zero_three": []}
