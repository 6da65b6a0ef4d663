"""Every kind of input gives the same sources, and odd names give safe, distinct ids."""

import io
import json
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.records import Kind, Source, source_id
from pipelines.curation.sources import InputError, find_sources, opened
from skyreels.storage import Storage

NAMES = {"a.mp4": Kind.VIDEO, "b.wav": Kind.AUDIO, "sub/c.JPG": Kind.IMAGE, "sub/a.mp4": Kind.VIDEO}


@pytest.fixture
def folder(tmp_path):
    for name in [*NAMES, "notes.txt", ".hidden.mp4"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


def _tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_gives_its_media_sorted(folder):
    found = find_sources([str(folder)])
    assert [source.uri for source in found] == sorted(str(folder / name) for name in NAMES)
    assert {source.uri: source.kind for source in found} == {str(folder / n): kind for n, kind in NAMES.items()}
    assert len({source.source_id for source in found}) == 4


def test_naming_an_input_twice_does_not_double_it(folder):
    assert find_sources([str(folder), str(folder / "a.mp4"), str(folder)]) == find_sources([str(folder)])


def test_a_glob_and_a_file_of_any_name(folder):
    assert [Path(s.uri).name for s in find_sources([str(folder / "*" / "*.mp4")])] == ["a.mp4"]
    alone = find_sources([str(folder / "notes.txt")])
    assert [(Path(s.uri).name, s.kind) for s in alone] == [("notes.txt", Kind.VIDEO)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifests_carry_what_they_say_and_relative_paths(folder, kind):
    rows = [{"path": "a.mp4", "licence": "CC0"}, {"path": "sub/c.JPG", "licence": "BY"}]
    manifest = folder / f"list.{kind}"
    if kind == "csv":
        manifest.write_text("path,licence\n" + "".join(f"{r['path']},{r['licence']}\n" for r in rows))
    elif kind == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    found = find_sources([str(manifest)])
    assert [(Path(s.uri).name, s.meta) for s in found] == [("a.mp4", {"licence": "CC0"}), ("c.JPG", {"licence": "BY"})]
    assert found[0].size == len("a.mp4")


def test_a_manifest_row_whose_file_is_missing_is_still_accounted_for(folder):
    (folder / "list.jsonl").write_text('{"path": "gone.mp4"}\n')
    assert [(Path(s.uri).name, s.size) for s in find_sources([str(folder / "list.jsonl")])] == [("gone.mp4", 0)]


def test_a_webdataset_tar_gives_members_with_their_json(folder, tmp_path):
    tar = _tar(
        folder / "x.tar", {"k1.mp4": b"video", "k1.json": b'{"caption": "hi"}', "k2.flac": b"sound", "k2.txt": b"t"}
    )
    found = find_sources([str(tar)])
    assert [(s.uri.rpartition("#")[2], s.kind) for s in found] == [("k1.mp4", Kind.VIDEO), ("k2.flac", Kind.AUDIO)]
    assert found[0].meta["json"] == {"caption": "hi"}
    with opened(found[1], tmp_path / "scratch") as path:
        assert path.read_bytes() == b"sound"
    assert not path.exists()


def test_a_truncated_tar_keeps_the_members_before_the_damage(folder):
    tar = _tar(folder / "x.tar", {"k1.mp4": b"a" * 600, "k2.mp4": b"b" * 60_000})
    tar.write_bytes(tar.read_bytes()[:3000])
    found = find_sources([str(tar)])
    broken = {source.uri: "_unreadable" in source.meta for source in found}
    assert broken == {str(tar): True, f"{tar}#k1.mp4": False, f"{tar}#k2.mp4": False}


def test_s3_prefixes(s3_root, folder, tmp_path):
    store = Storage(s3_root)
    for name in NAMES:
        store.write(f"media/{name}", name.encode())
    found = find_sources([f"{s3_root}/media"])
    assert [s.uri for s in found] == sorted(f"{s3_root}/media/{name}" for name in NAMES)
    with opened(found[0], tmp_path) as path:
        assert path.read_bytes() == b"a.mp4"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.jsonl", '{"path": "a"}\nnot json\n', "line 2 is not JSON"),
        ("bad.csv", "licence\nCC0\n", "line 2: no location"),
    ],
)
def test_bad_manifests_name_the_row(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        find_sources([str(tmp_path / name)])


def test_a_missing_input_says_what_would_be_right(tmp_path):
    with pytest.raises(InputError, match="does not exist: give a folder"):
        find_sources([str(tmp_path / "nope")])


@given(st.text(min_size=1))
def test_any_name_gives_a_key_that_webdataset_keeps_whole(name):
    assert re.fullmatch(r"[0-9a-f]{16}", source_id(name))


def test_like_names_in_two_folders_stay_apart():
    a, b = Source.at("/x/a.b.mp4", Kind.VIDEO, 1), Source.at("/y/a.b.mp4", Kind.VIDEO, 1)
    assert a.source_id != b.source_id
