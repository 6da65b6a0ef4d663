"""Tars as people make them: every member is a source, or there is one that says why not."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile

import pyarrow as pa
import pytest

from pipelines.curation.sources.account import Account
from pipelines.curation.sources.find import find_sources, opened

FILES = {"a.mp4": b"first" * 300, "b.wav": b"second" * 200, "b.json": b'{"caption": "hi"}'}


def _tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _members(path):
    return {source.uri.partition("#")[2] or "": source for source in find_sources([str(path)])}


def _bytes(source, scratch):
    with opened(source, scratch) as path:
        return path.read_bytes()


def test_joined_tars_are_read_to_the_end(tmp_path):
    one, two = _tar(tmp_path / "1", FILES), _tar(tmp_path / "2", {"c.mp4": b"third", "c.txt": b"words"})
    joined = tmp_path / "ab.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    found = _members(joined)
    assert list(found) == ["a.mp4", "b.wav", "c.mp4"]
    assert found["c.mp4"].meta["txt"] == "words"
    assert _bytes(found["c.mp4"], tmp_path / "s") == b"third"
    assert _bytes(found["a.mp4"], tmp_path / "s") == FILES["a.mp4"]


def test_equal_names_in_joined_tars_are_two_sources_each_with_its_own_words(tmp_path):
    one = _tar(tmp_path / "1", {"a.mp4": b"x", "a.txt": b"one"})
    two = _tar(tmp_path / "2", {"a.mp4": b"yy", "a.txt": b"two"})
    (tmp_path / "ab.tar").write_bytes(one.read_bytes() + two.read_bytes())
    found = _members(tmp_path / "ab.tar")
    assert {name: (source.size, source.meta["txt"]) for name, source in found.items()} == {
        "a.mp4": (1, "one"),
        "a.mp4@2": (2, "two"),
    }
    assert len({source.source_id for source in found.values()}) == 2


@pytest.mark.parametrize("more", [b"not a tar" * 100, b"\1" * 512, b"x"])
def test_other_bytes_behind_a_tar_are_told_and_the_members_are_kept(tmp_path, more):
    path = _tar(tmp_path / "x.tar", FILES)
    end = path.stat().st_size
    path.write_bytes(path.read_bytes() + more)
    found = _members(path)
    assert set(found) == {"", "a.mp4", "b.wav"}
    assert f"byte {end}" in found[""].meta["_unreadable"]


def test_damage_between_members_is_told(tmp_path):
    path = _tar(tmp_path / "x.tar", FILES)
    data = bytearray(path.read_bytes())
    second = 512 + 512 * 3
    assert data[second : second + 5] == b"b.wav"
    data[second + 20 : second + 200] = os.urandom(180)
    path.write_bytes(bytes(data))
    found = _members(path)
    assert set(found) == {"", "a.mp4"}
    assert f"byte {second}" in found[""].meta["_unreadable"]


def test_links_are_the_files_that_they_link_to(tmp_path):
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"film")
    os.link(folder / "a.mp4", folder / "b.mp4")
    os.symlink("../a.mp4", folder / "sub" / "c.mp4")
    os.symlink("gone.mp4", folder / "d.mp4")
    subprocess.run(["tar", "-cf", tmp_path / "x.tar", "--sort=name", "-C", folder, "."], check=True)
    found = _members(tmp_path / "x.tar")
    assert list(found) == ["a.mp4", "b.mp4", "d.mp4", "sub/c.mp4"]
    for name in ("a.mp4", "b.mp4", "sub/c.mp4"):
        assert _bytes(found[name], tmp_path / "s") == b"film"
    assert "a link to gone.mp4, which is not in the tar" in found["d.mp4"].meta["_unreadable"]


def test_links_are_followed_through_links_and_not_in_circles(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"bytes"))
        links = {"b.mp4": ("a.mp4", tarfile.LNKTYPE), "c.mp4": ("b.mp4", tarfile.SYMTYPE)}
        links |= {"d.mp4": ("e.mp4", tarfile.SYMTYPE), "e.mp4": ("d.mp4", tarfile.SYMTYPE)}
        for name, (to, kind) in links.items():
            link = tarfile.TarInfo(name)
            link.linkname, link.type = to, kind
            tar.addfile(link)
    found = _members(tmp_path / "x.tar")
    assert _bytes(found["c.mp4"], tmp_path / "s") == b"bytes"
    assert "a link to e.mp4" in found["d.mp4"].meta["_unreadable"]


def test_members_that_are_no_media_are_counted(tmp_path):
    path = _tar(
        tmp_path / "x.tar", {**FILES, "b.cls": b"3", "lone.txt": b"x", "in.tar": b"y", "noend": b"z", "._a": b""}
    )
    account = Account()
    find_sources([str(path)], account)
    assert account.passed_over == {".cls": 1, ".txt": 1, ".tar": 1, "no suffix": 1}
    assert (account.sidecars, account.hidden) == (1, 1)


def test_dots_in_folders_and_names_divide_no_key(tmp_path):
    files = {
        "./v1.0/a.mp4": b"x", "./v1.0/a.json": b'{"licence": "CC0"}',
        "clip.v2.MP4": b"x", "clip.v2.TXT": b"words", "clip.v3.mp4": b"x", "clip.v3.txt": b"other",
        "k.wide.mp4": b"x", "k.txt": b"of the key", "._a.mp4": b"x", "__MACOSX/a.mp4": b"x",
    }  # fmt: skip
    found = _members(_tar(tmp_path / "x.tar", files))
    assert {name: {k: v for k, v in s.meta.items() if k in ("json", "txt")} for name, s in found.items()} == {
        "clip.v2.MP4": {"txt": "words"},
        "clip.v3.mp4": {"txt": "other"},
        "k.wide.mp4": {"txt": "of the key"},
        "v1.0/a.mp4": {"json": {"licence": "CC0"}},
    }


def test_one_member_that_is_no_json_stops_no_other(tmp_path):
    files = {"a.mp4": b"x", "a.json": b"{", "b.mp4": b"y", "b.json": b'{"n": 1}'}
    found = _members(_tar(tmp_path / "x.tar", files))
    assert "a.json is not JSON" in found["a.mp4"].meta["_caption_error"]
    assert found["b.mp4"].meta["json"] == {"n": 1}


PACKERS = {
    "tar.gz": gzip.compress,
    "tgz": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    "tar": gzip.compress,  # whose name does not tell
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_tars(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(PACKERS[suffix](_tar(tmp_path / "plain", FILES).read_bytes()))
    found = _members(path)
    assert list(found) == ["a.mp4", "b.wav"]
    assert found["b.wav"].meta["json"] == {"caption": "hi"}
    for name in found:
        assert _bytes(found[name], tmp_path / "s") == FILES[name]
    assert [p.name.partition("-")[0] for p in (tmp_path / "s").iterdir()] == ["unpacked"]


def test_a_torn_compressed_tar_keeps_what_comes_before(tmp_path):
    files = {"a.mp4": os.urandom(3000), "b.mp4": os.urandom(60_000)}
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(_tar(tmp_path / "plain", files).read_bytes())[:20_000])
    found = _members(path)
    assert "cannot be unpacked to its end" in found[""].meta["_unreadable"]
    assert _bytes(found["a.mp4"], tmp_path / "s") == files["a.mp4"]


def test_a_tar_that_unpacks_without_end_is_told(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(30 << 20)))
    (told,) = find_sources([str(path)])
    assert "unpacks to more than 100 times its size" in told.meta["_unreadable"]
