"""Pictures that go to the child together become what each becomes alone, and none of them harms its neighbours."""

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.curation.pool.extract import extract_source, extract_sources
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Kind, Source, Status, TakenDown
from skyreels.media.limits import DEFAULT_LIMITS
from skyreels.media.sandbox import Sandbox
from skyreels.storage import sha256_file

EXTRACT = ExtractConfig()
NOTHING = TakenDown()
_EXIF_ORIENTATION = 0x0112


class Counting(Sandbox):
    """Notes what it is asked for."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = []

    def call(self, target, request, **how):
        self.asked.append(target.rpartition(":")[2])
        return super().call(target, request, **how)


def _picture(seed, size=(120, 96)):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)


def _jpeg(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def sound_pictures(tmp_path):
    """Of every kind: turned by EXIF, with transparency, grey, with bars, of odd sides."""
    folder = tmp_path / "in"
    folder.mkdir()
    turned = Image.Exif()
    turned[_EXIF_ORIENTATION] = 6
    Image.fromarray(_picture(0)).save(folder / "0-turned.jpg", exif=turned)
    Image.fromarray(np.dstack([_picture(1), _picture(2)[..., 0]])).save(folder / "1-clear.png")
    Image.fromarray(_picture(3)[..., 0]).save(folder / "2-grey.jpg")
    barred = cv2.copyMakeBorder(_picture(4, (320, 180)), 30, 30, 0, 0, cv2.BORDER_CONSTANT)
    Image.fromarray(barred).save(folder / "3-barred.webp", lossless=True)
    Image.fromarray(_picture(5, (99, 77))).save(folder / "4-odd.bmp")
    return folder


def _sources(folder):
    return [Source.at(str(path), Kind.IMAGE, path.stat().st_size) for path in sorted(folder.iterdir())]


def _told(reports):
    return [report.model_dump(exclude={"timings"}, warnings=False) for report in reports]


def _files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _both_ways(sources, tmp_path, sandbox, taken=NOTHING):
    """Reports and files of the sources together, checked against those of each alone."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()
    found = list(extract_sources(sources, EXTRACT, sandbox, together, taken=taken))
    each = [extract_source(source, EXTRACT, sandbox, alone, taken=taken) for source in sources]
    assert _told(found) == _told(each)
    assert _files(together) == _files(alone)
    return found


def test_together_as_alone_with_one_call(sound_pictures, tmp_path):
    with Counting() as sandbox:
        found = _both_ways(_sources(sound_pictures), tmp_path, sandbox)
    assert sandbox.asked[:2] == ["take_pictures", "probe_source"]
    assert [report.status for report in found] == [Status.OK] * 5
    assert len(_files(tmp_path / "together")) == 5
    assert found[0].probe["image"]["width"] == 96
    assert found[3].clips[0].crop is not None


def test_what_is_wrong_with_one_is_told_as_if_it_were_alone(sound_pictures, tmp_path):
    whole = _jpeg(_picture(6))
    (sound_pictures / "0-cut-short.jpg").write_bytes(whole[: len(whole) // 2])
    (sound_pictures / "1-a-list.jpg").write_text("#EXTM3U\nhttp://example.com/a.ts\n")
    stills = [Image.fromarray(_picture(seed, (64, 48))) for seed in range(4)]
    stills[0].save(sound_pictures / "2-moving.gif", save_all=True, append_images=stills[1:], duration=100)
    gone = Source.at(str(sound_pictures / "3-gone.jpg"), Kind.IMAGE, 10)
    listed = sorted([*_sources(sound_pictures), gone], key=lambda source: source.uri)
    with Sandbox() as sandbox:
        found = _both_ways(listed, tmp_path, sandbox)
    reasons = {Path(report.source.uri).name: report.rejection and report.rejection.reason for report in found}
    assert reasons["0-cut-short.jpg"] == "truncated"
    assert reasons["1-a-list.jpg"] == "playlist_refused"
    assert reasons["3-gone.jpg"] == "unreadable"
    assert next(report for report in found if "moving" in report.source.uri).source.kind is Kind.VIDEO
    assert sum(report.status is Status.OK for report in found) == 6


def test_one_that_eats_all_memory_costs_its_neighbours_nothing(sound_pictures, tmp_path):
    Image.new("RGB", (9000, 9000)).save(sound_pictures / "2-bomb.png")  # 90 kB, and 243 MB when it is unpacked
    limits = replace(DEFAULT_LIMITS, max_pixels=10**8, memory_bytes=160 << 20)
    with Sandbox(limits, ("pipelines.curation.pool.stills",)) as sandbox:
        found = _both_ways(_sources(sound_pictures), tmp_path, sandbox)
    assert [Path(report.source.uri).name for report in found if report.status is not Status.OK] == ["2-bomb.png"]
    assert next(report.rejection.reason for report in found if report.rejection) == "memory_limit"


def test_what_was_taken_down_is_not_looked_at(sound_pictures, tmp_path):
    sources = _sources(sound_pictures)
    taken = TakenDown(
        source_ids=frozenset({sources[0].source_id}), sha256=frozenset({sha256_file(sound_pictures / "2-grey.jpg")})
    )
    with Sandbox() as sandbox:
        found = _both_ways(sources, tmp_path, sandbox, taken)
    assert [report.status is Status.REJECTED for report in found] == [True, False, True, False, False]


def test_films_between_pictures_stay_in_their_place(sound_pictures, tmp_path):
    (sound_pictures / "2-not.mp4").write_bytes(b"no film")
    sources = [
        source.model_copy(update={"kind": Kind.VIDEO}) if source.uri.endswith("mp4") else source
        for source in _sources(sound_pictures)
    ]
    with Sandbox() as sandbox:
        found = list(extract_sources(sources, EXTRACT, sandbox, tmp_path))
    assert [report.source.uri for report in found] == [source.uri for source in sources]
