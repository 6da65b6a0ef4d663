"""A long film in steps leaves the pool that it would leave whole, whatever becomes of a step."""

import json
import os
import shutil
import tarfile
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest

from pipelines.curation.pool import tables
from pipelines.curation.pool.extract import _sandbox, extract_in_process
from pipelines.curation.pool.films import copies
from pipelines.curation.pool.films.steps import Division, forget_sources, prepare_films
from pipelines.curation.pool.plan import make_parts
from pipelines.curation.recipe import load_recipe
from pipelines.curation.records import Kind, Source, TakenDown
from pipelines.curation.sources.find import find_sources, opened
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render
from skyreels.commits import CommitLog
from skyreels.parts import run_in_process
from skyreels.storage import Storage

EXTRACT = load_recipe().extract
WHOLE = Division(min_bytes=1 << 40)
IN_STEPS = Division(min_bytes=1, stretch_s=3.0, clips=2)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """20 s with sound: shots, cuts and dissolves between them, and a key frame every half second."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    seen = [
        render(sample_film(90 + n, size=(160, 96), fps=24, seconds=5.0, shots=2, transition=kind, sound="impacts"))
        for n, kind in enumerate(("dissolve", "cut", "dissolve", "cut"))
    ]
    sound = np.concatenate([one.audio for one in seen], axis=1)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"threads": "1", "bf": "2"})
        video.width, video.height, video.pix_fmt, video.codec_context.gop_size = 160, 96, "yuv420p", 12
        heard = container.add_stream("aac", rate=48_000, layout="stereo")
        for index, picture in enumerate(picture for one in seen for picture in one.frames()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout="stereo")
        samples.sample_rate, samples.pts = 48_000, 0
        container.mux(heard.encode(samples))
        container.mux(heard.encode())
    return path


def _parts(*paths):
    sources = [Source.at(str(path), Kind.VIDEO, path.stat().st_size) for path in paths]
    return make_parts(sources, EXTRACT)


def _left(pool):
    """Every row without what time it took, and the bytes of every file of every clip."""
    log = CommitLog(pool)
    commits = list(log.all())
    clips = [row for commit in commits for row in tables.committed(log, commit, "clips/").to_pylist()]
    sources = [row for commit in commits for row in tables.committed(log, commit, "sources/").to_pylist()]
    shards = {file.name: file.sha256 for commit in commits for file in commit.files if file.name.startswith("shards/")}
    told = [{name: value for name, value in row.items() if name != "timings"} for row in sources]
    return clips, told, shards


@pytest.fixture(scope="module")
def whole(film, tmp_path_factory):
    pool = Storage(str(tmp_path_factory.mktemp("whole")))
    list(extract_in_process(_parts(film), EXTRACT, pool, WHOLE))
    clips, sources, shards = _left(pool)
    assert len([clip for clip in clips if clip["stage"] is None]) >= 4
    assert len(sources[0]["cuts_s"]) >= 3
    assert len(json.loads(sources[0]["transitions"])) >= 1
    return clips, sources, shards


class Interrupted(Exception):
    """A run that was killed."""


def _prepared(parts, pool, stop_after=None):
    """Ids of the steps that were done, up to a kill after some of them."""
    done = []

    def run(todo, make_worker):
        for outcome in run_in_process(todo, make_worker):
            assert not outcome.failure
            done.append(outcome.part_id.split("-", 2)[2])
            if len(done) == stop_after:
                raise Interrupted
            yield outcome

    with suppress(Interrupted):
        prepare_films(parts, EXTRACT, pool, TakenDown(), IN_STEPS, run, _sandbox)
    return done


def test_in_steps_as_whole(film, whole, tmp_path, caplog):
    pool, parts = Storage(str(tmp_path)), _parts(film)
    with caplog.at_level("INFO"):
        list(extract_in_process(parts, EXTRACT, pool, IN_STEPS))
    assert "taken whole" not in caplog.text
    assert _left(pool) == whole
    assert pool.names("_films") == []


def test_a_killed_run_goes_on_with_the_steps_that_are_left(film, whole, tmp_path):
    pool, parts = Storage(str(tmp_path)), _parts(film)
    first = _prepared(parts, pool, stop_after=3)
    second = _prepared(parts, pool, stop_after=4)
    third = _prepared(parts, pool)
    assert first == ["plan", "look-0000", "look-0001"]
    steps = [*first, *second, *third]
    assert len(steps) == len(set(steps))
    assert sum(step.startswith("look") for step in steps) >= 4
    assert {"sound", "measure", "cut-00000", "cut-00002"} <= set(steps)
    assert _prepared(parts, pool) == []
    list(extract_in_process(parts, EXTRACT, pool, IN_STEPS))
    assert _left(pool) == whole


def test_what_a_step_left_and_is_lost_is_made_anew(film, whole, tmp_path):
    pool, parts = Storage(str(tmp_path)), _parts(film)
    _prepared(parts, pool)
    lost = [name for name in pool.names("_films") if name.endswith(("/look-0001.npz", "/cut-00000.json"))]
    for name in lost:
        pool.delete(name)
    assert _prepared(parts, pool) == ["look-0001", "cut-00000"]
    list(extract_in_process(parts, EXTRACT, pool, IN_STEPS))
    assert _left(pool) == whole


def test_damaged_clips_of_a_step_are_noticed_and_the_film_is_taken_whole(film, whole, tmp_path, caplog):
    pool, parts = Storage(str(tmp_path)), _parts(film)
    _prepared(parts, pool)
    tar = tmp_path / next(name for name in pool.names("_films") if name.endswith(".tar") and "cut" in name)
    data = bytearray(tar.read_bytes())
    data[700] ^= 0xFF
    tar.write_bytes(data)
    list(extract_in_process(parts, EXTRACT, pool, IN_STEPS))
    assert "taken whole after all" in caplog.text
    assert _left(pool) == whole


def test_another_film_under_the_name_is_not_given_the_clips_of_the_first(film, tmp_path):
    path = tmp_path / "film.mp4"
    shutil.copyfile(film, path)
    pool, parts = Storage(str(tmp_path / "pool")), _parts(path)
    _prepared(parts, pool)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    list(extract_in_process(parts, EXTRACT, pool, IN_STEPS))
    found, expected = _left(pool), Storage(str(tmp_path / "other"))
    list(extract_in_process(parts, EXTRACT, expected, WHOLE))
    assert found == _left(expected)
    assert found[1][0]["status"] == "failed"


def test_bit_rot_in_a_long_film_is_told_as_of_any(film, tmp_path, caplog):
    path = tmp_path / "film.mp4"
    data = bytearray(film.read_bytes())
    for place in np.random.default_rng(4).integers(5_000, 90_000, 200):  # pictures alone lie there
        data[place] ^= 0xFF
    path.write_bytes(data)
    in_steps, at_once = Storage(str(tmp_path / "steps")), Storage(str(tmp_path / "once"))
    with caplog.at_level("INFO"):
        list(extract_in_process(_parts(path), EXTRACT, in_steps, IN_STEPS))
    list(extract_in_process(_parts(path), EXTRACT, at_once, WHOLE))
    assert "stretches_differ" in caplog.text
    assert _left(in_steps) == _left(at_once)
    assert _left(in_steps)[0][0]["decode.errors"] > 0


def test_what_was_taken_down_or_is_not_planned_any_more_leaves_nothing(film, tmp_path):
    pool, parts = Storage(str(tmp_path)), _parts(film)
    _prepared(parts, pool, stop_after=3)
    forget_sources(pool, frozenset({"0" * 16}))
    assert pool.names("_films")
    forget_sources(pool, frozenset({parts[0].sources[0].source_id}))
    assert pool.names("_films") == []
    _prepared(parts, pool, stop_after=3)
    _prepared([], pool)
    assert pool.names("_films") == []


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Of what copies were made, in an empty temporary space."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = []
    monkeypatch.setattr(copies, "opened", lambda source, scratch: found.append(source.uri) or opened(source, scratch))
    return found


def test_a_film_far_away_is_fetched_once_by_a_node(film, whole, s3_root, tmp_path, fetched):
    far = Storage(s3_root)
    far.write("film.mp4", film.read_bytes())
    source = Source.at(far.location("film.mp4"), Kind.VIDEO, film.stat().st_size)
    pool = Storage(str(tmp_path / "pool"))
    list(extract_in_process(make_parts([source], EXTRACT), EXTRACT, pool, IN_STEPS))
    assert fetched == [source.uri]
    here = json.loads(json.dumps(whole[0]).replace(whole[1][0]["source_id"], source.source_id))
    without = lambda rows: [{n: v for n, v in row.items() if n not in ("part_id", "members")} for row in rows]  # noqa: E731
    assert without(_left(pool)[0]) == without(here)
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]


def test_another_film_under_the_name_is_fetched_anew_and_old_copies_make_room(s3_root, tmp_path, fetched):
    far = Storage(s3_root)

    def read(name):
        with copies.at_hand(Source.at(far.location(name), Kind.VIDEO, 1), tmp_path / "tmp") as path:
            return path.read_bytes()

    far.write("a", b"one")
    assert [read("a"), read("a"), len(fetched)] == [b"one", b"one", 1]
    far.write("a", b"two of them")
    assert [read("a"), len(fetched)] == [b"two of them", 2]
    with copies.at_hand(Source.at(far.location("a"), Kind.VIDEO, 1), tmp_path / "tmp") as held:
        for number in range(copies.MOST):
            far.write(f"b{number}", bytes(number))
            read(f"b{number}")
        assert held.read_bytes() == b"two of them"
    assert read("a") == b"two of them"
    assert fetched.count(far.location("a")) == 3
    with pytest.raises(FileNotFoundError):
        read("c")


def test_a_film_in_a_tar_is_unpacked_once_whatever_the_tar_is_called(tmp_path, fetched):
    path = tmp_path / os.fsdecode(b"caf\xe9.tar")
    with tarfile.open(path, "w") as tar:
        (tmp_path / "film.mp4").write_bytes(b"a film")
        tar.add(tmp_path / "film.mp4", "film.mp4")
    (source,) = find_sources([str(path)])
    for _ in range(2):
        with copies.at_hand(source, tmp_path / "tmp") as film:
            assert film.read_bytes() == b"a film"
    assert fetched == [source.uri]
    copies.forget(source)
    assert not [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]


def test_a_film_that_cannot_be_divided_is_taken_whole(film, whole, tmp_path, caplog):
    pool, parts = Storage(str(tmp_path)), _parts(film)
    with caplog.at_level("INFO"):
        list(extract_in_process(parts, EXTRACT, pool, Division(min_bytes=1, stretch_s=15.0)))
    assert "too short" in caplog.text
    assert _left(pool) == whole
    assert pool.names("_films") == []
