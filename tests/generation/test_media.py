"""Files as the generator takes them, against arrays they were written from."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.generation.media import MediaReader
from pipelines.generation.request import GenerationRequest, MediaFile, RequestError
from skyreels.media.encode import write_flac, write_video, write_wav
from skyreels.media.image import write_image

RATE = 8_000


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


def file(path, *kinds):
    return MediaFile("field", Path(path), kinds or ("video", "image", "audio"))


def test_frames_come_at_the_rate_asked_for_in_time(reader, tmp_path):
    levels = np.arange(9, dtype=np.uint8) * 25 + 20
    write_video(tmp_path / "a.mp4", (np.full((32, 48, 3), level) for level in levels), 16, crf=1)
    for fps, places in ((16, range(9)), (8, range(0, 9, 2)), (32, np.arange(18) // 2)):
        frames = reader.pictures(file(tmp_path / "a.mp4"), (48, 32), fps)
        assert frames.shape[1:] == (32, 48, 3)
        wanted = levels[list(places)].astype(int)
        assert np.abs(frames.mean(axis=(1, 2, 3))[: len(wanted)] - wanted).max() < 2


def test_pictures_shrink_to_cover_and_never_grow(reader, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((60, 90, 3), np.uint8))
    covers = {(45, 20): (30, 45), (10, 30): (30, 45), (91, 10): (60, 90)}
    for cover, (height, width) in covers.items():
        assert reader.pictures(file(tmp_path / "a.png"), cover, 16).shape == (1, height, width, 3)


def test_a_shrunk_mask_marks_whatever_holds_a_marked_pixel(reader, tmp_path):
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[9, 5] = 255
    mask[20, 20] = 100  # darker than middle grey: not marked
    write_image(tmp_path / "a.png", mask)
    marked = reader.pictures(file(tmp_path / "a.png"), (8, 8), 16, as_mask=True)
    assert marked.dtype == bool
    assert np.argwhere(marked).tolist() == [[0, 2, 1]]


def test_sound_has_the_channels_and_rate_of_the_codec(reader, tmp_path):
    times = np.arange(RATE) / RATE
    left, right = (0.4 * np.sin(2 * np.pi * f * times).astype(np.float32) for f in (200, 330))
    write_wav(tmp_path / "two.wav", np.stack([left, right]), RATE)
    write_flac(tmp_path / "one.flac", left[None], RATE)
    both = reader.sound(file(tmp_path / "two.wav"), RATE, 2)
    assert np.abs(both - np.stack([left, right])).max() < 1e-4
    assert np.abs(reader.sound(file(tmp_path / "two.wav"), RATE, 1)[0] - (left + right) / 2).max() < 1e-4
    spread = reader.sound(file(tmp_path / "one.flac"), RATE, 2)
    assert np.array_equal(spread[0], spread[1])
    assert reader.sound(file(tmp_path / "one.flac"), 2 * RATE, 1).shape == (1, 2 * RATE)


def test_pictures_that_would_fill_the_disk_are_refused_before_they_are_decoded(reader, tmp_path):
    write_video(tmp_path / "a.mp4", [np.zeros((1080, 1920, 3), np.uint8)] * 2, 0.1)
    with pytest.raises(RequestError, match=r"2400 frames of 1920x1080 take 13\.9 GiB: ask for a smaller size or fps"):
        reader.pictures(file(tmp_path / "a.mp4"), (1920, 1080), 120)


def test_what_lasts_too_long_is_refused_before_it_is_decoded(reader, tmp_path):
    write_flac(tmp_path / "long.flac", np.zeros((1, 61 * RATE), np.float32), RATE)
    request = GenerationRequest(prompt="@a", references={"@a": ("long.flac",)})
    with pytest.raises(RequestError, match=r"references @a: .*long\.flac lasts 61\.0 s, at most 60 are read"):
        reader.check(request.files({"long.flac": tmp_path / "long.flac"}))


def test_a_file_that_a_decoder_chokes_on_is_named_and_the_reader_lives_on(reader, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(range(256)) * 8)
    with pytest.raises(RequestError, match=r"field: .*bad\.mp4: \w+"):
        reader.kind(file(tmp_path / "bad.mp4"))
    write_image(tmp_path / "good.png", np.zeros((8, 8, 3), np.uint8))
    assert reader.kind(file(tmp_path / "good.png")) == "image"


@pytest.mark.parametrize(("picture_s", "sound_s"), [(0.75, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_picture_and_sound_of_one_file_begin_together(reader, tmp_path, picture_s, sound_s):
    """A flash and a click at 1.25 s of the file's clock, however late the one or the other starts."""
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        video, sound = out.add_stream("libx264", rate=16), out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        for time_s in np.arange(picture_s, 2.0, 1 / 16):
            level = 235 if abs(time_s - 1.25) < 0.03 else 20
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            out.mux(video.encode(frame.reformat(format="yuv420p")))
        out.mux(video.encode(None))
        samples = np.zeros((1, round((2.0 - sound_s) * RATE)), np.int16)
        samples[0, round((1.25 - sound_s) * RATE)] = 30000
        block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE, round(sound_s * RATE), Fraction(1, RATE)
        out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    frames = reader.pictures(file(tmp_path / "a.mkv"), (48, 32), 16)
    heard = reader.sound(file(tmp_path / "a.mkv"), RATE, 1)
    flash = int(frames.mean(axis=(1, 2, 3)).argmax()) / 16
    assert flash == pytest.approx(1.25 - picture_s, abs=1 / 16)
    assert int(np.abs(heard[0]).argmax()) / RATE == pytest.approx(flash, abs=1 / 16)


def test_a_reader_that_lives_long_forgets_the_oldest_files(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.generation.media._KEPT_PROBES", 2)
    pictures = [tmp_path / f"{name}.png" for name in "abc"]
    with MediaReader() as reader:
        for side, path in enumerate(pictures, 4):
            write_image(path, np.zeros((side, side, 3), np.uint8))
            assert reader.size(file(path)) == (side, side)
        assert list(reader._probes) == pictures[1:]
        assert reader.size(file(pictures[0])) == (4, 4)
