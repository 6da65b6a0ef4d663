"""One spelling per place, which is always text."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyreels.locations import is_remote, local_path, normalise, printable, spelled


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_name_that_a_file_system_allows_is_spelled_as_text_and_comes_back(name):
    path = os.fsdecode(b"/in/" + name)
    json.loads(json.dumps(spelled(path)).encode())
    assert os.fsencode(local_path(spelled(path))) == os.fsencode(Path(path))


@pytest.mark.parametrize(
    "name", ["a#b.mp4", "a=b", "films [2024]", "100% real.mp4", "what?", "~", "~nobody", "x:", "-d"]
)
def test_characters_with_a_meaning_elsewhere_stand_for_themselves(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normalise(f"{tmp_path}/{name}") == f"{tmp_path}/{name}"
    if name != "~":
        assert normalise(name) == f"{tmp_path}/{name}"


def test_the_ways_to_say_one_place(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "link").symlink_to("/usr/lib")
    monkeypatch.chdir(tmp_path / "else")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = str(tmp_path / "in" / "a b.mp4")
    for way in ("../in/a b.mp4", "~/in/a b.mp4", f"file://{tmp_path}/in/a%20b.mp4", f"{tmp_path}/else/../in/./a b.mp4"):
        assert normalise(way) == place
    assert normalise(f"{tmp_path}/link/../x") == os.path.realpath("/usr/lib/..") + "/x"


def test_only_a_scheme_makes_a_location_remote():
    assert is_remote("s3://bucket/a#b")
    assert not is_remote("/data/x:/y://z.mp4")
    assert not is_remote("file:///data/x.mp4")


def test_a_name_is_printed_on_one_line():
    assert printable("new\nline \x1b[2J \udce9 名前") == "new\\nline \\x1b[2J \\udce9 名前"
