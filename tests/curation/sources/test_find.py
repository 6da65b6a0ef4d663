"""Every kind of input gives the same sources, and odd names give safe, distinct ids."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.records import Kind, Source, source_id
from pipelines.curation.sources.account import Account
from pipelines.curation.sources.find import InputError, find_sources, opened, refuse_own, stream_sources
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


ODD = [
    "episode #1 (final).mp4", "#shorts.mp4", "what? [really].mp4", "a=b.mp4", "new\nline.mp4", "-dash.mp4",
    "back\\slash.mp4", "x.tar#y.mp4", "100% real.mp4", "caf\udce9.mp4", "films [2024]/p.mp4", "tagged#1/q.mp4",
]  # fmt: skip


@pytest.fixture
def odd(tmp_path):
    for index, name in enumerate(ODD):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % index)
    return tmp_path / "in"


def _contents(sources, scratch):
    found = []
    for source in sources:
        json.dumps(source.model_dump(mode="json")).encode()
        Source.model_validate_json(source.model_dump_json())
        with opened(source, scratch) as path:
            str(path).encode()
            found.append(path.read_bytes())
    return sorted(found)


def test_every_name_in_a_folder_is_a_name(odd, tmp_path):
    found = find_sources([str(odd)])
    assert _contents(found, tmp_path / "scratch") == sorted(b"%d" % index for index in range(len(ODD)))
    assert len({source.source_id for source in found}) == len(ODD)
    assert not [source.name for source in found if source.name.startswith("/")]
    assert "films [2024]/p.mp4" in {source.name for source in found}


@pytest.mark.parametrize("name", ODD)
def test_every_name_may_be_given_itself_and_matched_by_a_glob(odd, name, tmp_path):
    expected = [b"%d" % ODD.index(name)]
    alone = find_sources([str(odd / name)])
    assert _contents(alone, tmp_path) == expected
    suffix = name.rpartition("/")[2][-6:]
    everything = find_sources([str((odd / name).parent / f"*{glob_escaped(suffix)}")])
    assert set(expected) <= set(_contents(everything, tmp_path))
    assert alone[0].source_id in {source.source_id for source in everything}


def glob_escaped(text):
    return re.sub(r"[*?[]", "?", text)


def test_a_member_and_a_file_that_is_spelled_like_it_are_two(tmp_path):
    tar = _tar(tmp_path / "x.tar", {"y.mp4": b"member", "a#b.mp4": b"odd member"})
    (tmp_path / "x.tar#y.mp4").write_bytes(b"file")
    found = find_sources([str(tmp_path)])
    assert _contents(found, tmp_path / "scratch") == [b"file", b"member", b"odd member"]
    assert len({source.source_id for source in found}) == 3
    assert {source.name for source in found} == {"x.tar#y.mp4", "x.tar#a#b.mp4"}
    assert {source.container for source in found} == {"", str(tar)}


def test_ids_are_those_of_earlier_pools_and_of_earlier_take_downs():
    assert source_id("/in/a.mp4") == "3819be05921c020a"
    assert Source.at("/in/x.tar", Kind.VIDEO, 1, member="k1.mp4").source_id == "0e347608f3205359"


def test_a_listing_accounts_for_every_file(folder):
    for name in ("a.txt", "b.json", "table.xlsx", "UPPER.XLSX", "no-suffix", "list.jsonl"):
        (folder / name).write_bytes(b"")
    (folder / "gone.mov").symlink_to("/nowhere.mov")
    (folder / "gone.doc").symlink_to("/nowhere.doc")
    account = Account()
    found = find_sources([str(folder)], account)
    assert dict(account.passed_over) == {".xlsx": 2, "no suffix": 1, ".jsonl": 1, ".txt": 1}
    assert account.sidecars == 2  # a.txt beside a.mp4, b.json beside b.wav
    assert account.hidden == 1
    assert [Path(s.uri).name for s in found if s.size == 0] == ["gone.mov"], "it fails with a row of its own"
    assert account.unread == [f"{folder}/gone.doc (to /nowhere.doc)"]
    seen = len(found) + account.passed_over.total() + account.sidecars + account.hidden + len(account.unread)
    assert seen == sum(len(files) for _, _, files in os.walk(folder))
    assert "2 .xlsx" in "\n".join(account.lines())


@pytest.mark.parametrize(
    "name",
    ["1.m2ts", "VTS_01_1.VOB", "c.qt", "s.wma", "t.aiff", "x.jfif", "i.HEIC", "s.mka", "old.divx", "cam.mxf", "x.avif"],
)
def test_what_cameras_and_discs_write_is_taken(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert len(find_sources([str(tmp_path)])) == 1


def _output(folder):
    for name in ("pool/_plan/000000-x.parquet", "pool/shards/p.tar", "datasets/default/shards/d.mp4", "layers/l.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize("place", ["out", "sub/deep", "."])
def test_an_output_below_an_input_is_no_input(folder, place):
    before = find_sources([str(folder)])
    _output(folder / place)
    account = Account()
    assert find_sources([str(folder)], account) == before
    assert len(account.own) == 3
    assert find_sources([f"{folder}/*.mp4"]) == [s for s in before if s.uri.endswith(".mp4")]


def test_an_output_below_an_input_on_s3_is_no_input(s3_root):
    store = Storage(s3_root)
    for name in ("films/a.mp4", "films/pool/b.mp4", "films/data/pool/_plan/x.parquet", "films/data/datasets/d/c.mp4"):
        store.write(name, b"x")
    assert [s.name for s in find_sources([f"{s3_root}/films"])] == ["a.mp4", "pool/b.mp4"]


def test_a_folder_that_is_merely_called_pool_is_an_input(folder):
    (folder / "pool").mkdir()
    (folder / "pool" / "swim.mp4").write_bytes(b"x")
    assert "pool/swim.mp4" in {source.name for source in find_sources([str(folder)])}


def test_part_of_the_output_is_refused_as_an_input(tmp_path):
    _output(tmp_path)
    refuse_own([str(tmp_path), str(tmp_path / "raw")], str(tmp_path))
    (tmp_path / "way").symlink_to(tmp_path / "datasets")
    for inside in ("pool", "datasets/default/shards", "way/default", "pool/*/*.tar"):
        with pytest.raises(InputError, match="is part of what --output"):
            refuse_own([str(tmp_path / inside)], str(tmp_path))


def test_an_unreadable_folder_is_told_and_the_rest_goes_on(folder, as_nobody):
    (folder / "lost+found").mkdir(mode=0o700)
    account = Account()
    found = as_nobody(lambda: find_sources([str(folder)], account))
    assert len(found) == len(NAMES)
    assert account.unread == [f"{folder}/lost+found (Permission denied)"]


def test_a_link_that_leads_in_a_circle_hides_nothing_beside_it(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "round").symlink_to("round")
    found = find_sources([str(tmp_path)])
    assert [source.name for source in found] == ["a.mp4"]
    assert found[0].modified_ns == (tmp_path / "a.mp4").stat().st_mtime_ns
    assert found[0].meta["_captions"][0]["shots"][0]["short"] == "a dog"


def test_an_input_of_no_name_is_not_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="an --input is empty"):
        find_sources([""])


def test_a_glob_without_a_suffix_is_a_listing_and_one_without_a_match_an_error(folder):
    account = Account()
    assert find_sources([f"{folder}/*"], account) == find_sources([str(folder)])
    assert dict(account.passed_over) == {".txt": 1}
    assert [Path(s.uri).name for s in find_sources([f"{folder}/n*.txt"])] == ["notes.txt"]
    with pytest.raises(InputError, match=r"no\*\.mp4 matches no file below"):
        find_sources([f"{folder}/no*.mp4"])


def test_names_are_relative_to_the_input_and_the_same_wherever_it_lies(folder, tmp_path):
    other = tmp_path / "elsewhere"
    folder.rename(other)
    (other / "list.csv").write_text(f"path\nsub/a.mp4\n{tmp_path}/far/b.mp4\n")
    assert [s.name for s in find_sources([str(other)])] == sorted(NAMES)
    assert [s.name for s in find_sources([str(other / "sub" / "a.mp4")])] == ["a.mp4"]
    assert [s.name for s in find_sources([f"{other}/*/*.mp4"])] == ["sub/a.mp4"]
    assert {s.name for s in find_sources([str(other / "list.csv")])} == {"sub/a.mp4", "b.mp4"}


def test_a_remote_folder_is_streamed_as_it_is_listed(s3_root, monkeypatch):
    """Names that sort differently as folders and as files, sidecars on either side of a folder, hidden and own ones."""
    monkeypatch.setattr("pipelines.curation.sources.find._AT_ONCE", 2)
    store = Storage(f"{s3_root}/films")
    names = [
        "a.mp4",
        "a/b.mp4",
        "a-b/c.jpg",
        "a/b/d.wav",
        "b.json",
        "b.k/x.png",
        "b.mp4",
        "notes.doc",
        ".hid/e.mp4",
        "f/.g.mp4",
        "out/pool/_plan/000000-0.parquet",
        "out/pool/shards/x.mp4",
        "out/datasets/y.mp4",
        "out/z.mp4",
    ]
    for name in names:  # fmt: skip
        store.write(name, b"{}")
    at_once, streamed = Account(), Account()
    expected = find_sources([store.root], at_once)
    batches = list(stream_sources([store.root], streamed))
    assert [source for batch in batches for source in batch] == expected
    assert max(map(len, batches)) == 2
    assert (streamed.sidecars, streamed.hidden, streamed.passed_over) == (1, 2, at_once.passed_over)
    assert (at_once.sidecars, at_once.hidden) == (1, 2)
    assert set(streamed.own) == {f"{store.root}/out/pool", f"{store.root}/out/datasets"}
    assert list(stream_sources([f"{store.root}/a.mp4"], Account())) == [find_sources([f"{store.root}/a.mp4"])]
