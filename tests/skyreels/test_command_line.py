"""Options and settings side by side, and errors as sentences."""

import argparse

import pytest

from skyreels.command_line import exit_status, parse
from skyreels.config import ConfigError


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", nargs="+", default=[])
    parser.add_argument("--output")
    return parser


def _parse(parser, *words):
    arguments, settings = parse(parser, words, many=("input",))
    return arguments.input, arguments.output, settings


def test_settings_stand_anywhere_and_keep_their_order(parser):
    words = ["steps=1", "--input", "films", "a.b=2", "--output", "out", "steps=3"]
    assert _parse(parser, *words) == (["films"], "out", ("steps=1", "a.b=2", "steps=3"))


def test_the_value_of_an_option_is_no_setting(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c=d.mp4").touch()
    words = ["--input", "a=b.mp4", "c=d.mp4", "./e=f.mp4", "dedup.exact=false", "--output", "o=p"]
    assert _parse(parser, *words) == (["a=b.mp4", "c=d.mp4", "./e=f.mp4"], "o=p", ("dedup.exact=false",))


def test_a_file_may_be_called_like_an_option(parser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.mp4").touch()
    assert _parse(parser, "--input", "-dash.mp4")[0] == ["./-dash.mp4"]


def test_what_is_neither_ends_the_program(parser, capsys):
    with pytest.raises(SystemExit) as ended:
        _parse(parser, "--inptu", "x")
    assert ended.value.code == 2
    assert "--inptu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("no config 'x'"), "error: no config 'x'"),
        (PermissionError(13, "Permission denied", "/ro/x"), "error: /ro/x: Permission denied"),
        (FileNotFoundError("/x does not exist"), "error: /x does not exist"),
        (LookupError("nobody"), "error: nobody"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, said, capsys):
    def run():
        raise error

    assert exit_status(run, (LookupError,)) == 1
    assert capsys.readouterr().err.strip() == said


def test_a_defect_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0)


def test_an_interrupted_run_says_how_to_go_on(capsys):
    def run():
        raise KeyboardInterrupt

    assert exit_status(run, stopped="run it again") == 130
    assert capsys.readouterr().err == "run it again\n"
