import random
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels.media.decode import DecodeReport, iter_video_frames
from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe

FRAMES = 60
FPS = 25


def seen(path, studio, found=None, **options):
    """[(number burned into the picture, time)] of what is decoded."""
    found = found or probe(path)
    return [(studio.number_of(f.luma()), f.time_s) for f in iter_video_frames(path, found, **options)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "muxer"),
    [
        ("libx264", "yuv420p", "mp4"),
        ("libx264", "yuv420p", "mpegts"),
        ("libx264", "yuv420p10le", "matroska"),
        ("libx265", "yuv420p10le", "mp4"),
        ("libsvtav1", "yuv420p", "matroska"),
        ("libvpx-vp9", "yuv420p", "webm"),
        ("mpeg4", "yuv420p", "avi"),
        ("mjpeg", "yuvj420p", "mov"),
        ("prores_ks", "yuv422p10le", "mov"),
        ("ffv1", "bgr0", "matroska"),
    ],
)
def test_every_picture_comes_once_in_order_at_its_time(tmp_path, studio, codec, pix_fmt, muxer):
    path = tmp_path / "a"
    studio.video(path, [studio.numbered(i) for i in range(FRAMES)], codec=codec, pix_fmt=pix_fmt, container=muxer)
    report = DecodeReport()
    got = seen(path, studio, report=report)
    assert [number for number, _ in got] == list(range(FRAMES))
    assert [t for _, t in got] == pytest.approx([i / FPS for i in range(FRAMES)], abs=0.001)
    assert (report.nominal_frames, report.decoded_frames, report.errors) == (FRAMES, FRAMES, 0)
    assert not report.bit_rot_suspected


def test_variable_rate_times_are_those_of_the_file(tmp_path, studio):
    times = [0, 0.04, 0.08, 0.5, 0.54, 2.0, 2.04]
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(7)], times_s=times)
    assert [t for _, t in seen(path, studio)] == pytest.approx(times)


@pytest.fixture(scope="module", params=["mp4", "mpegts", "matroska", "avi"])
def long_clip(request, clips, studio):
    """Long groups of pictures with B-frames, so that most seeks land far from what is wanted."""
    path = clips / f"long.{request.param}"
    codec = "mpeg4" if request.param == "avi" else "libx264"
    frames = [studio.numbered(i, 80, 48) for i in range(200)]
    return studio.video(path, frames, codec=codec, container=request.param, gop=70)


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 199), count=st.integers(1, 40), shift=st.sampled_from([0.0, 0.3, 0.7]), lead=st.booleans())
def test_a_span_is_what_the_full_decode_has_there(long_clip, studio, first, count, shift, lead):
    found = probe(long_clip)
    everything = [(i, i / FPS) for i in range(200)]
    start, end = (first + shift) / FPS, (first + shift + count) / FPS
    wanted = [i for i, t in everything if start - 1e-4 <= t < end - 1e-4]
    if lead and shift:
        wanted = [first, *wanted]
    got = seen(long_clip, studio, found, start_s=start, end_s=end, lead_in=lead)
    assert [number for number, _ in got] == wanted


def test_the_report_of_a_span_counts_that_span(long_clip, studio):
    report = DecodeReport()
    seen(long_clip, studio, start_s=3.0, end_s=5.0, report=report)
    assert (report.nominal_frames, report.decoded_frames, report.missing_frames) == (50, 50, 0)


def test_keyframes_only(long_clip, studio):
    found, report = probe(long_clip), DecodeReport()
    got = seen(long_clip, studio, found, keyframes_only=True, report=report)
    assert [t for _, t in got] == pytest.approx(list(found.video.keyframe_times_s))
    assert [number for number, _ in got] == [round(t * FPS) for _, t in got]
    assert len(got) >= 3
    assert report.nominal_frames == report.decoded_frames == len(got)


def test_keyframes_of_720p_take_less_than_a_hundredth_of_real_time(tmp_path, studio):
    frames = [studio.numbered(i, 1280, 720) for i in range(10)]
    path = studio.video(tmp_path / "a.mp4", [frames[i // 10] for i in range(100)], fps=5, gop=25)
    found = probe(path)
    costs = []
    for _ in range(3):
        started = time.process_time()
        for frame in iter_video_frames(path, found, keyframes_only=True):
            frame.luma()
        costs.append(time.process_time() - started)
    assert min(costs) < found.duration_s / 100


def test_bit_rot_is_reported_and_no_patched_picture_handed_on(tmp_path, studio):
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (96, 400, 3), np.uint8)
    clean = studio.video(tmp_path / "a.mp4", [texture[:, 2 * i : 2 * i + 160] for i in range(100)], gop=10)
    assert sum(1 for _ in iter_video_frames(clean, probe(clean))) == 100
    data = bytearray(clean.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    chance = random.Random(0)
    for _ in range(20):
        data[chance.randrange(start, end)] ^= 1 << chance.randrange(8)
    rotten = tmp_path / "rotten.mp4"
    rotten.write_bytes(data)
    strict, loose = DecodeReport(), DecodeReport()
    shown = list(iter_video_frames(rotten, probe(rotten), report=strict))
    patched = list(iter_video_frames(rotten, probe(rotten), report=loose, strict=False))
    assert strict.bit_rot_suspected
    assert loose.bit_rot_suspected
    assert 0 < len(shown) < len(patched) <= 100
    assert strict.nominal_frames == 100
    assert strict.missing_frames == 100 - len(shown)


def test_a_file_with_no_decodable_picture_says_so(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(20)])
    found = probe(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        list(iter_video_frames(path, found))
    assert caught.value.reason == "no_frames"


def test_limits_hold_while_decoding_too(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(50)])
    found = probe(path)
    for limits, reason in (
        (MediaLimits(max_frames=10), "too_many_frames"),
        (MediaLimits(max_duration_s=1), "too_long"),
    ):
        with pytest.raises(MediaError) as caught:
            list(iter_video_frames(path, found, limits=limits))
        assert caught.value.reason == reason


def test_threads_give_the_same_pictures(long_clip):
    found = probe(long_clip)
    one = [f.luma().copy() for f in iter_video_frames(long_clip, found, end_s=3)]
    two = [f.luma().copy() for f in iter_video_frames(long_clip, found, end_s=3, threads=2)]
    assert len(one) == len(two) == 75
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_generator_dropped_early_closes_the_file(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(20)], fps=Fraction(24000, 1001))
    frames = iter_video_frames(path, probe(path))
    next(frames)
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)
