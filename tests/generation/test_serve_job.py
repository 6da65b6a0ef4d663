"""jobs/serve.py as a user starts it; the guide's commands and the printed line are pasted into a shell."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import serve
from skyreels.media.probe import probe

REPOSITORY = Path(__file__).parents[2]
GUIDE = (REPOSITORY / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"<!-- tested: (\w+) -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def place(model_folder, tmp_path_factory):
    """A folder in which the guide's relative paths exist, and a free port."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "jobs").symlink_to(REPOSITORY / "jobs")
    (folder / "model/shipped").mkdir(parents=True)
    (folder / "model/shipped/tiny").symlink_to(model_folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        return folder, str(free.getsockname()[1])


@pytest.fixture(scope="module")
def shell(place):
    """`shell(text)`: what it prints, with the guide's port replaced; it must succeed."""
    folder, port = place
    bin_folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}

    def words(text):
        return {"args": ["bash", "-euc", text.replace("8000", port)], "cwd": folder, "env": environment, "text": True}

    def run(text):
        return subprocess.run(**words(text), check=True, stdout=subprocess.PIPE, timeout=300).stdout

    def interruptible():
        """Whoever runs the tests in the background of a shell has SIGINT ignored, which processes inherit."""
        signal.signal(signal.SIGINT, signal.default_int_handler)

    run.start = lambda text: subprocess.Popen(**words(f"exec {text}"), stdout=subprocess.PIPE, preexec_fn=interruptible)
    return run


@pytest.mark.slow
@pytest.mark.e2e
def test_the_guide_and_the_printed_line_work_as_pasted(place, shell):
    folder, _ = place
    assert [kind for kind, _ in BLOCKS] == ["server", "shell", "python", "python", "shell"]
    (_, start), *steps = BLOCKS
    process = shell.start(start)
    try:
        said = [process.stdout.readline() for _ in range(5)]
        assert said[0].startswith("serving model/shipped/tiny as skyreels on http://127.0.0.1:")
        for kind, text in steps:
            shell(text if kind == "shell" else f"python - <<'PYTHON'\n{text}PYTHON")
        assert (folder / "clip.mp4").read_bytes() == (folder / "same.mp4").read_bytes()
        assert (folder / "clip.mp4").read_bytes() == (folder / "ours.mp4").read_bytes()
        assert probe(folder / "longer.mp4").duration_s > probe(folder / "ours.mp4").duration_s
        found = probe(folder / "clip.mp4")
        assert found.video.packets > 1
        assert found.audio is not None
        (folder / "clip.mp4").unlink()
        assert "clip.mp4" in shell("".join(said[2:]))
        assert probe(folder / "clip.mp4").video is not None
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_keys_are_shown_once_listed_and_revoked(tmp_path, capsys):
    def run(*words):
        status = serve.main(["keys", *words, "--files", str(tmp_path)])
        return status, *capsys.readouterr()

    status, secret, _ = run("add", "alice", "--scope", "read")
    assert (status, secret.startswith("sk-")) == (0, True)
    assert run("list")[1] == "alice read\n"
    status, _, told = run("add", "alice")
    assert (status, told) == (1, "error: there is a key 'alice' already: give another name\n")
    assert run("revoke", "alice")[0] == 0
    assert run("list")[1] == ""
    assert run("revoke", "alice")[2] == "error: there is no key 'alice' that is not revoked\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "{tmp}/none"], "model_index.json is missing"),
        (["--model", "{model}", "--host", "0.0.0.0", "--files", "{tmp}/files"], "there are no API keys"),
        (["--model", "{model}", "--files", "s3://bucket/x"], "say which database the jobs are in"),
        (["--model", "{model}", "--files", "{model}/model_index.json"], "give a folder as --files"),
        (["--model", "{model}", "--files", "{tmp}/files", "--port", "{taken}"], "Address already in use"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(model_folder, tmp_path, capsys, words, told):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"tmp": tmp_path, "model": model_folder, "taken": taken.getsockname()[1]}
        assert serve.main([word.format(**places) for word in words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
