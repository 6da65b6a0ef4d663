"""One source at a time: whose fault a failure is decides what becomes of it."""

import errno

import pytest

from pipelines.curation.pool.extract import extract_source
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Kind, Source, Status
from skyreels.media.errors import MediaError
from skyreels.media.limits import DEFAULT_LIMITS
from skyreels.media.sandbox import Sandbox


class Failing:
    """A sandbox whose calls end in these reasons, one after another, and then as a picture without video."""

    limits = DEFAULT_LIMITS

    def __init__(self, *reasons):
        self.left = list(reasons)
        self.calls = 0

    def call(self, target, request, *, wall_s, scratch):
        self.calls += 1
        raise MediaError(self.left.pop(0) if self.left else "no_streams", "do something", "seen")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    return Source.at(str(path), Kind.VIDEO, 1)


def _extract(source, sandbox, tmp_path):
    return extract_source(source, ExtractConfig(), sandbox, tmp_path / "scratch", attempt=2)


def test_what_the_media_room_says_becomes_the_sources_rejection(source, tmp_path):
    report = _extract(source, Failing("bit_rot"), tmp_path)
    assert (report.status, report.attempts) == (Status.FAILED, 2)
    assert report.rejection.model_dump() == {
        "stage": "probe", "reason": "bit_rot", "remedy": "do something", "detail": "seen",
    }  # fmt: skip


@pytest.mark.parametrize(("kills", "reason"), [(1, "no_streams"), (2, "no_streams"), (3, "child_killed")])
def test_a_decoder_killed_from_outside_is_tried_again(source, tmp_path, kills, reason):
    sandbox = Failing(*["child_killed"] * kills)
    assert _extract(source, sandbox, tmp_path).rejection.reason == reason
    assert sandbox.calls == 3 if kills >= 2 else 2


def test_a_full_scratch_disk_is_nobodys_fault_and_fails_the_part(source, tmp_path):
    with pytest.raises(OSError) as caught:
        _extract(source, Failing("disk_full"), tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_a_source_that_is_not_there_or_cannot_be_reached_costs_only_itself(s3_endpoint, tmp_path):
    for uri in (str(tmp_path / "gone.mp4"), str(tmp_path), "s3://no-such-bucket/a.mp4"):
        report = _extract(Source.at(uri, Kind.VIDEO, 0), Failing(), tmp_path)
        assert (report.rejection.stage, report.rejection.reason) == ("open", "unreadable")


def test_what_is_too_large_is_neither_fetched_nor_read(tmp_path):
    sandbox = Failing()
    far = Source.at("s3://no-such-bucket/huge.mp4", Kind.VIDEO, DEFAULT_LIMITS.max_file_bytes + 1)
    assert _extract(far, sandbox, tmp_path).rejection.reason == "file_too_large"
    assert sandbox.calls == 0


def test_a_preallocated_file_of_zeros_is_refused_without_being_read_whole(tmp_path):
    path = tmp_path / "part.mp4"
    with path.open("wb") as file:
        file.truncate(12 * 2**30)  # of which hashing would read every byte
    with Sandbox() as sandbox:
        report = _extract(Source.at(str(path), Kind.VIDEO, 12 * 2**30), sandbox, tmp_path)
    assert report.rejection.reason == "unknown_container"
    assert report.sha256 == ""
