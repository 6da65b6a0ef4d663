"""Animated pictures are clips; what stands still is a picture."""

import numpy as np
import pytest
from PIL import Image

from skyreels.media.cut import cut_clip
from skyreels.media.decode import iter_video_frames
from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe
from skyreels.media.report import DecodeReport


def write(path, pictures, durations, **options):
    first, *rest = [Image.fromarray(p) for p in pictures]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, **options)
    return path


LOSSLESS = {"webp": {"lossless": True}}


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_pictures_come_at_their_own_times(tmp_path, studio, kind):
    durations = [40, 40, 200, 40, 1500, 40, 40, 40]
    shown = [studio.numbered(i) for i in range(8)]
    path = write(tmp_path / f"a.{kind}", shown, durations, **LOSSLESS.get(kind, {}))
    facts = probe(path)
    assert (facts.image, facts.audio, facts.container) == (None, None, kind)
    assert facts.duration_s == facts.video.duration_s == pytest.approx(1.94)
    assert (facts.video.shown_packets, facts.video.vfr, float(facts.video.steady_rate)) == (8, True, 25)
    report = DecodeReport()
    frames = list(iter_video_frames(path, facts, report=report))
    assert [f.time_s for f in frames] == pytest.approx(np.cumsum([0, *durations[:-1]]) / 1000)
    assert [studio.number_of(f.rgb()) for f in frames] == list(range(8))
    assert (report.nominal_frames, report.decoded_frames, report.errors) == (8, 8, 0)
    later = iter_video_frames(path, facts, start_s=0.5, end_s=1.9, lead_in=True)
    assert [studio.number_of(f.rgb()) for f in later] == [4, 5, 6]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_transparency_lies_over_black_and_a_clip_can_be_cut(tmp_path, kind):
    pictures = []
    for i in range(10):
        picture = np.zeros((96, 160, 4), np.uint8)
        picture[..., :3] = 90
        picture[30:60, 10 * i : 10 * i + 40] = (220, 220, 220, 255)
        pictures.append(picture)
    path = write(tmp_path / f"a.{kind}", pictures, 50, disposal=2, **LOSSLESS.get(kind, {}))
    facts = probe(path)
    for i, frame in enumerate(iter_video_frames(path, facts)):
        rgb = frame.rgb().astype(int)
        assert rgb[:20].max() <= 2
        assert rgb[35:55, 10 * i + 5 : 10 * i + 35].min() >= 215
    report = cut_clip(path, facts, start_s=0.0, end_s=0.5, fps=20, video_path=tmp_path / "c.mp4", audio_path=None)
    assert (report.frames, report.repeated_frames, report.decoded_frames) == (10, 0, 10)


def test_one_picture_stays_a_picture(tmp_path, studio):
    for kind in ("gif", "webp", "png"):
        Image.fromarray(studio.numbered(3)).save(tmp_path / f"a.{kind}")
        assert probe(tmp_path / f"a.{kind}").image is not None


def test_a_png_whose_still_is_not_part_of_its_animation(tmp_path, studio):
    still, *rest = [Image.fromarray(studio.numbered(i)) for i in (99, 0, 1, 2)]
    still.save(tmp_path / "a.png", save_all=True, append_images=rest, duration=100, default_image=True)
    frames = iter_video_frames(tmp_path / "a.png", probe(tmp_path / "a.png"))
    assert [studio.number_of(f.rgb()) for f in frames] == [0, 1, 2]


def test_no_delay_means_a_tenth_of_a_second_as_in_browsers(tmp_path, studio):
    path = write(tmp_path / "a.gif", [studio.numbered(i) for i in range(4)], 0)
    assert probe(path).duration_s == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_of_a_torn_animation_what_is_whole_is_shown(tmp_path, studio, kind):
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 255, (96, 160, 3), dtype=np.uint8) for _ in range(10)]
    path = write(tmp_path / f"a.{kind}", pictures, 100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = probe(path)
    report = DecodeReport()
    frames = list(iter_video_frames(path, facts, report=report))
    assert 3 <= len(frames) < 10
    assert facts.video.packets == len(frames)
    if kind == "png":  # a GIF promises nothing
        assert report.nominal_frames > report.decoded_frames


def test_limits_hold(tmp_path, studio):
    path = write(tmp_path / "a.gif", [studio.numbered(i) for i in range(12)], 100)
    with pytest.raises(MediaError, match="too_many_frames"):
        probe(path, MediaLimits(max_frames=5))
    with pytest.raises(MediaError, match="too_many_pixels"):
        probe(path, MediaLimits(max_pixels=100))
    with pytest.raises(MediaError, match="too_long"):
        probe(path, MediaLimits(max_duration_s=1.0))
