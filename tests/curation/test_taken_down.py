"""What a take-down names: by location, by what a path leads to, by bytes, and in tars."""

import io
import tarfile

import pytest

from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import extend_plan
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import SourceReport, Status
from pipelines.curation.sources.find import find_sources
from pipelines.curation.taken_down import NoSuchSource, find_named
from pipelines.dataset.tables import encode
from skyreels.commits import Commit, CommitLog, describe
from skyreels.storage import Storage, sha256_file


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


def _commit(root, sources, sha256):
    pool = root.sub("pool")
    reports = [SourceReport(source=s, status=Status.OK, sha256=sha256.get(name, "")) for name, s in sources.items()]
    with pool.staged("sources/one.parquet") as path:
        path.write_bytes(encode(tables.source_table(tables.source_rows("one", reports))))
        file = describe("sources/one.parquet", path)
    CommitLog(pool).commit(Commit(part_id="one", files=(file,), facts={"sources": {}}))


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
