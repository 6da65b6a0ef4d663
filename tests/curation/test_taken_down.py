"""What a take-down names: by location, by what a path leads to, by bytes, and in tars."""

import fnmatch
import hashlib
import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.pool import plan as plans
from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import extend_plan, plan_files
from pipelines.curation.recipe import ExtractConfig, PartsConfig
from pipelines.curation.records import Kind, Source, SourceReport, Status
from pipelines.curation.sources.find import find_sources
from pipelines.curation.taken_down import NoSuchSource, find_named
from pipelines.dataset.tables import decode, encode
from skyreels.commits import Commit, CommitLog, describe
from skyreels.storage import DamageError, Storage, sha256_file


@pytest.fixture
def output(tmp_path):
    """A tar of two members, one of which lies beside it as well; all are planned, and committed where asked."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    with tarfile.open(inputs / "shard.tar", "w") as tar:
        for name in ("a.mp4", "b.mp4"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"bytes" if name == "a.mp4" else b"other"))
    (inputs / "copy.mp4").write_bytes(b"bytes")
    root = Storage(str(tmp_path / "out"))
    sources = find_sources([str(inputs)])
    extend_plan(root.sub("pool"), sources, ExtractConfig())
    return root, inputs, {source.uri.rpartition("/")[2]: source for source in sources}


def _commit(root, sources, sha256, part="one"):
    pool = root.sub("pool")
    reports = [SourceReport(source=s, status=Status.OK, sha256=sha256.get(name, "")) for name, s in sources.items()]
    with pool.staged(f"sources/{part}.parquet") as path:
        path.write_bytes(encode(tables.source_table(tables.source_rows(part, reports))))
        file = describe(f"sources/{part}.parquet", path)
    CommitLog(pool).commit(Commit(part_id=part, files=(file,), facts={"sources": {}}))


def _asked(output, pattern, *, copies=False):
    root, _, sources = output
    named = find_named(root, [str(pattern)], copies=copies)
    names = {source.source_id: name for name, source in sources.items()}
    return {names[i] for i in named.asked}, {names[i] for i in named.copies}


def test_a_member_is_named_by_its_location_and_a_tar_names_all_that_is_in_it(output, tmp_path, monkeypatch):
    _, inputs, _ = output
    both = {"shard.tar#a.mp4", "shard.tar#b.mp4"}
    assert _asked(output, inputs / "shard.tar#a.mp4")[0] == {"shard.tar#a.mp4"}
    assert _asked(output, "*#b.mp4")[0] == {"shard.tar#b.mp4"}
    assert _asked(output, inputs / "shard.tar")[0] == both
    monkeypatch.chdir(tmp_path)
    assert _asked(output, "in/shard.tar")[0] == both
    (tmp_path / "link.tar").symlink_to(inputs / "shard.tar")
    assert _asked(output, tmp_path / "link.tar")[0] == both


def test_copies_are_found_among_members_as_well(output, tmp_path):
    root, inputs, sources = output
    content = sha256_file(inputs / "copy.mp4")
    _commit(root, sources, {"copy.mp4": content, "shard.tar#a.mp4": content, "shard.tar#b.mp4": "0" * 64})
    assert _asked(output, inputs / "copy.mp4", copies=True) == ({"copy.mp4"}, {"shard.tar#a.mp4"})
    assert _asked(output, inputs / "shard.tar#a.mp4", copies=True) == ({"shard.tar#a.mp4"}, {"copy.mp4"})
    (tmp_path / "elsewhere.mp4").write_bytes(b"bytes")
    assert _asked(output, tmp_path / "elsewhere.mp4")[0] == {"copy.mp4", "shard.tar#a.mp4"}


def test_bytes_of_a_member_that_no_run_has_read_are_read_now(output):
    root, inputs, sources = output
    _commit(root, sources, {"copy.mp4": sha256_file(inputs / "copy.mp4")})
    assert _asked(output, inputs / "shard.tar#a.mp4", copies=True) == ({"shard.tar#a.mp4"}, {"copy.mp4"})


def test_nothing_of_that_name(output):
    with pytest.raises(NoSuchSource, match=r"no source of .* matches /nowhere: give a location"):
        _asked(output, "/nowhere")


FILES = {f"{name}.mp4": f"{number % 3}".encode() for number, name in enumerate("abcdef")}
SOME = st.lists(st.sampled_from([*FILES, "shard.tar#a.mp4", "shard.tar#b.mp4", "gone.mp4"]), unique=True, max_size=5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Files with contents that repeat, and links to two of them; the tar is one by its name alone."""
    folder = tmp_path_factory.mktemp("in")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "shard.tar").write_bytes(b"tar")
    (folder / "link.mp4").symlink_to("a.mp4")
    (folder / "link.tar").symlink_to("shard.tar")
    (folder / "other.mp4").write_bytes(b"1")
    return folder


def _source(folder, name):
    place, _, member = name.partition("#")
    return Source.at(f"{folder}/{place}", Kind.VIDEO, 1, {"_offset": 0} if member else {}, member=member)


@settings(max_examples=30, deadline=None)
@given(
    planned=st.lists(SOME, max_size=3),
    committed=st.lists(st.lists(st.tuples(SOME, st.integers(0, 3)), max_size=2), max_size=3),
    patterns=st.lists(
        st.sampled_from(
            [*FILES, "*", "*#*", "?.mp4", "link.mp4", "link.tar", "shard.tar", "other.mp4", "shard.tar#a.mp4"]
        ),
        min_size=1,
        max_size=3,
    ),
    by_id=st.booleans(),
    copies=st.booleans(),
)
def test_looking_through_finds_what_holding_everything_finds(
    tmp_path_factory, inputs, planned, committed, patterns, by_id, copies
):
    root = Storage(str(tmp_path_factory.mktemp("out")))
    for number, names in enumerate(planned):
        extract = ExtractConfig(parts=PartsConfig(max_sources=1 + number))
        extend_plan(root.sub("pool"), [_source(inputs, name) for name in names], extract)
    for number, groups in enumerate(committed):
        named = {name: (_source(inputs, name), content) for names, content in groups for name in names}
        sha256 = {name: _sha256(inputs, content) if content else "" for name, (_, content) in named.items()}
        _commit(root, {name: source for name, (source, _) in named.items()}, sha256, f"part{number}")
    asked = [_source(inputs, name).source_id if by_id and name in FILES else f"{inputs}/{name}" for name in patterns]
    expected = _reference(root.sub("pool"), asked, copies=copies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "_ROWS", 2)
        if expected is None:
            with pytest.raises(NoSuchSource):
                find_named(root, asked, copies=copies)
            return
        found = find_named(root, asked, copies=copies)
    assert (found.asked, found.copies, found.sha256) == expected


def _sha256(folder, content):
    return sha256_file(folder / f"{'abc'[content - 1]}.mp4")


def _reference(pool, patterns, *, copies):
    """All plans and commits in memory, asked one pattern after another."""
    log, known, contents = CommitLog(pool), {}, {}
    for name in pool.names("_plan"):
        known |= {s.source_id: s for part in plans.read_plan_file(pool, name) for s in part.sources}
    for commit in log.all():
        for row in tables.committed(log, commit, "sources/").to_pylist():
            facts = {name: row[name] for name in ("source_id", "uri", "kind", "size")}
            known.setdefault(row["source_id"], Source(**facts))
            contents[row["source_id"]] = row["sha256"]
    asked = {}
    for pattern in patterns:
        found = [
            s
            for s in known.values()
            if pattern in (s.uri, s.container, s.source_id) or fnmatch.fnmatchcase(s.uri, pattern)
        ]
        if not found and os.path.isfile(pattern):
            real, content = os.path.realpath(pattern), sha256_file(Path(pattern))
            found = [s for s in known.values() if os.path.realpath(s.container or s.uri) == real]
            found += [s for s in known.values() if contents.get(s.source_id) == content]
        asked |= {s.source_id: s.uri for s in found}
    if not asked:
        return None
    if not copies:
        return asked, {}, frozenset()
    held = {name: contents.get(name) or _bytes_now(known[name]) for name in asked}
    bytes_of = frozenset(content for content in held.values() if content)
    same = {name: known[name].uri for name, content in contents.items() if content in bytes_of and name not in asked}
    return asked, same, bytes_of


def _bytes_now(source):
    """Of a member its one byte at the start of the tar."""
    path = source.container or source.uri
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        data = file.read(source.size if source.container else -1)
    return hashlib.sha256(data).hexdigest()


def test_a_plan_is_looked_through_and_not_held(tmp_path):
    peaks = []
    for count in (200, 800):
        root = Storage(str(tmp_path / str(count)))
        sources = [Source.at(f"/in/{n:04d}.mp4", Kind.VIDEO, 1, {"said": f"{n:020000d}"}) for n in range(count)]
        extend_plan(root.sub("pool"), sources, ExtractConfig())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, "_ROWS", 20)
            tracemalloc.start()
            assert list(find_named(root, ["/in/0007.mp4"], copies=False).asked.values()) == ["/in/0007.mp4"]
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5_000_000  # held whole, 600 sources more take 12 MB at the least


def test_plans_that_tell_no_locations_are_looked_through_as_well(tmp_path):
    root = Storage(str(tmp_path))
    extend_plan(root.sub("pool"), [_source("/in", "a.mp4"), _source("/in", "b.mp4")], ExtractConfig())
    (name,) = plan_files(root.sub("pool"), ExtractConfig())
    table = decode(root.sub("pool").read(name)).drop_columns(["uri"])
    root.sub("pool").write(name, encode(table))
    assert list(find_named(root, ["*/b.mp4"], copies=True).asked.values()) == ["/in/b.mp4"]


def test_a_damaged_plan_is_told(tmp_path):
    root = Storage(str(tmp_path))
    extend_plan(root.sub("pool"), [_source("/in", f"{n}.mp4") for n in range(300)], ExtractConfig())
    (name,) = plan_files(root.sub("pool"), ExtractConfig())
    data = bytearray(root.sub("pool").read(name))
    data[len(data) // 2] ^= 255
    root.sub("pool").write(name, bytes(data))
    with pytest.raises(DamageError, match=f"{name} is damaged .*: restore it from a copy"):
        find_named(root, ["*/b.mp4"], copies=True)
