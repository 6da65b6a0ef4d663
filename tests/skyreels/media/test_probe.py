import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from skyreels.media.decode import DecodeReport, iter_video_frames
from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe

NTSC = Fraction(30000, 1001)


def test_a_plain_clip_with_sound(tmp_path, studio):
    sound = studio.clicks([0.5], 2.0, 48000, channels=2)
    frames = [studio.numbered(i) for i in range(60)]
    found = probe(studio.video(tmp_path / "a.mp4", frames, fps=NTSC, gop=20, audio=sound))
    video = found.video
    assert (found.container, found.truncated, found.image) == ("mp4", False, None)
    assert (video.codec, video.width, video.height, video.rotation, video.pixel_aspect) == ("h264", 160, 96, 0, "1/1")
    assert (video.fps, video.vfr, video.bit_depth, video.pixel_format) == ("30000/1001", False, 8, "yuv420p")
    assert (video.header_frames, video.packets, video.shown_packets) == (60, 60, 60)
    assert video.keyframe_times_s == pytest.approx([0, 20 / NTSC, 40 / NTSC])
    assert video.duration_s == pytest.approx(60 / NTSC)
    assert (found.audio.codec, found.audio.sample_rate, found.audio.channels) == ("aac", 48000, 2)
    assert found.audio.start_s == 0
    assert found.audio.duration_s == pytest.approx(2.0, abs=0.03)


@pytest.mark.parametrize("muxer", ["mp4", "matroska", "mpegts", "flv"])
@pytest.mark.parametrize("fps", [24, NTSC, 60])
def test_the_rate_is_exact_in_every_container(tmp_path, studio, muxer, fps):
    frames = [studio.numbered(i) for i in range(50)]
    video = probe(studio.video(tmp_path / "a", frames, fps=fps, container=muxer)).video
    assert not video.vfr
    assert float(Fraction(video.fps)) == pytest.approx(float(fps), rel=1e-3)
    assert video.duration_s == pytest.approx(50 / fps, abs=0.002)
    assert video.start_s == pytest.approx(0, abs=1e-6)


def test_variable_rate_is_seen(tmp_path, studio):
    times = [0, 0.04, 0.08, 0.2, 0.24, 1.0, 1.04, 1.08]
    video = probe(studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(8)], times_s=times)).video
    assert video.vfr
    assert video.fps_float == pytest.approx(7 / 1.08, rel=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_display_matrix_turns_the_picture(tmp_path, studio, degrees, mirrored):
    # FFmpeg's matrix for `degrees` turns counter-clockwise as numpy's rot90 does, and then mirrors.
    stored = np.zeros((96, 160, 3), np.uint8)
    stored[:48, :80], stored[:48, 80:], stored[48:, :80] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    seen = np.rot90(stored, degrees // 90)
    seen = seen[:, ::-1] if mirrored else seen
    path = studio.video(tmp_path / "a.mp4", [stored] * 3, rotate=(degrees, mirrored), options={"crf": "1"})
    found = probe(path)
    assert (found.video.height, found.video.width) == seen.shape[:2]
    frame = next(iter_video_frames(path, found))
    assert np.abs(frame.rgb().astype(int)[4::8, 4::8] - seen[4::8, 4::8]).max() < 12
    assert frame.luma().shape == seen.shape[:2]
    grey = seen @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(frame.luma().ravel(), grey.ravel())[0, 1] > 0.99


def test_square_pixels_are_derived_from_the_aspect(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(0)] * 3, pixel_aspect=Fraction(4, 3))
    video = probe(path).video
    assert video.pixel_aspect == "4/3"
    assert video.display_size == (213, 96)
    turned = studio.video(tmp_path / "b.mp4", [studio.numbered(0)] * 3, pixel_aspect=Fraction(4, 3), rotate=(90, False))
    assert probe(turned).video.pixel_aspect == "3/4"


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size", "depth"),
    [
        ("libx264", "yuv420p10le", (160, 96), 10),
        ("libx265", "yuv420p10le", (160, 96), 10),
        ("libx264", "yuv444p", (161, 97), 8),
        ("ffv1", "bgr0", (161, 97), 8),
        ("prores_ks", "yuv422p10le", (160, 96), 10),
    ],
)
def test_depth_and_odd_sizes(tmp_path, studio, codec, pix_fmt, size, depth):
    frames = [np.full((size[1], size[0], 3), 90, np.uint8)] * 4
    container = "matroska" if codec == "ffv1" else "mov"
    video = probe(studio.video(tmp_path / "a", frames, codec=codec, pix_fmt=pix_fmt, container=container)).video
    assert (video.width, video.height, video.bit_depth, video.pixel_format) == (*size, depth, pix_fmt)


def test_colour_tags(tmp_path, studio):
    frames = [studio.numbered(0)] * 3
    hdr = probe(studio.video(tmp_path / "a.mp4", frames, pix_fmt="yuv420p10le", tag=(9, 1, 16, 9))).video
    assert (hdr.hdr, hdr.transfer, hdr.primaries, hdr.color_range) == (True, "smpte2084", "bt2020", "limited")
    full = probe(studio.video(tmp_path / "b.mp4", frames, pix_fmt="yuvj420p", tag=(1, 2, 1, 1))).video
    assert (full.hdr, full.transfer, full.color_range) == (False, "bt709", "full")


def test_sound_that_starts_late(tmp_path, studio):
    sound = studio.clicks([0.5], 1.0, 48000)
    path = studio.video(tmp_path / "a.mkv", [studio.numbered(i) for i in range(50)], audio=sound, audio_start_s=0.5)
    found = probe(path)
    assert found.audio.start_s == pytest.approx(0.5, abs=0.03)
    assert found.video.start_s == 0


def test_a_transport_stream_counts_from_its_first_picture(tmp_path, studio):
    frames = [studio.numbered(i) for i in range(25)]
    found = probe(studio.video(tmp_path / "a.ts", frames, muxer_options={"output_ts_offset": "10"}))
    assert found.clock_zero_s == pytest.approx(10, abs=0.2)
    assert found.video.start_s == pytest.approx(0)
    assert found.video.keyframe_times_s[0] == pytest.approx(0)


def test_what_an_edit_list_hides_is_not_counted(tmp_path, studio):
    path = studio.video(
        tmp_path / "a.mp4",
        [studio.numbered(i) for i in range(30)],
        times_s=[(i - 10) / 25 for i in range(30)],
        muxer_options={"avoid_negative_ts": "disabled"},
        options={"bf": "0"},
    )
    found = probe(path)
    assert (found.video.packets, found.video.shown_packets) == (30, 20)
    assert found.video.duration_s == pytest.approx(20 / 25)
    assert [studio.number_of(f.luma()) for f in iter_video_frames(path, found)] == list(range(10, 30))


def test_sound_only_and_picture_only(tmp_path, studio):
    sound = studio.sound(tmp_path / "a.wav", np.zeros((1, 16000), np.float32), 16000, codec="pcm_s16le")
    assert probe(sound).video is None
    assert probe(sound).duration_s == pytest.approx(1.0)
    with pytest.raises(MediaError, match="no_video_stream"):
        next(iter_video_frames(sound, probe(sound)))
    assert probe(studio.video(tmp_path / "a.mp4", [studio.numbered(0)] * 3)).audio is None


def test_a_picture_is_turned_by_its_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    image = probe(tmp_path / "a.jpg").image
    assert (image.format, image.width, image.height, image.exif_orientation) == ("jpeg", 20, 40, 6)


def test_a_stream_without_packets(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / "a.mp4")
    assert caught.value.reason in {"zero_length_stream", "no_streams"}


def test_truncated_files(tmp_path, studio):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 160, 3), np.uint8) for _ in range(50)]
    head = studio.video(tmp_path / "head.mp4", noise, muxer_options={"movflags": "+faststart"})
    tail = studio.video(tmp_path / "tail.mp4", noise)
    for path in (head, tail):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    found, report = probe(head), DecodeReport()
    shown = list(iter_video_frames(head, found, report=report))
    assert found.truncated
    assert 15 <= len(shown) < 35
    assert report.missing_frames == 50 - len(shown)
    with pytest.raises(MediaError) as caught:
        probe(tail)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("muxer", ["matroska", "avi"])
def test_other_truncated_containers_are_seen_by_their_duration(tmp_path, studio, muxer):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 160, 3), np.uint8) for _ in range(100)]
    path = studio.video(tmp_path / "a", noise, codec="mpeg4", container=muxer)
    assert not probe(path).truncated
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert probe(path).truncated


def test_limits_are_checked(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(50)])
    for limits, reason in (
        (MediaLimits(max_pixels=160 * 96 - 1), "too_many_pixels"),
        (MediaLimits(max_frames=49), "too_many_frames"),
        (MediaLimits(max_duration_s=1.9), "too_long"),
        (MediaLimits(max_file_bytes=100), "file_too_large"),
    ):
        with pytest.raises(MediaError) as caught:
            probe(path, limits)
        assert caught.value.reason == reason


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, studio):
    black = av.VideoFrame.from_ndarray(np.zeros((6144 * 3 // 2, 8192), np.uint8), format="yuv420p")
    path = studio.video(tmp_path / "bomb.mp4", [black], options={"preset": "ultrafast"})
    assert path.stat().st_size < 300_000
    started = time.process_time()
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "too_many_pixels"
    assert time.process_time() - started < 0.2


def test_pictures_that_grow_in_mid_stream_are_refused(tmp_path, studio):
    small = studio.video(tmp_path / "small.ts", [np.full((64, 64, 3), 90, np.uint8)] * 10)
    large = studio.video(tmp_path / "large.ts", [np.full((480, 640, 3), 90, np.uint8)] * 10)
    grown = tmp_path / "grown.ts"
    grown.write_bytes(small.read_bytes() + large.read_bytes())
    limits = MediaLimits(max_pixels=64 * 64)
    report, sizes = DecodeReport(), set()
    for frame in iter_video_frames(grown, probe(small), limits=limits, report=report):
        sizes.add((frame.source.width, frame.source.height))
    assert sizes == {(64, 64)}
    assert report.errors > 0
