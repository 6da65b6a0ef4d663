from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from skyreels.media.cut import cut_audio, cut_clip
from skyreels.media.decode import iter_video_frames
from skyreels.media.errors import MediaError
from skyreels.media.probe import probe

RATE = 44100


def cut(path, folder, **options):
    defaults = {"start_s": 0.0, "end_s": 1.0, "fps": 25}
    paths = {"video_path": folder / "clip.mp4", "audio_path": folder / "clip.flac"}
    return cut_clip(path, probe(path), **(defaults | paths | options))


def numbers(folder, studio):
    """Numbers burned into the clip, read by plain PyAV."""
    with av.open(str(folder / "clip.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [frame.pts for frame in frames] == [i * frames[1].pts for i in range(len(frames))]
    return [studio.number_of(frame.to_ndarray(format="gray")) for frame in frames]


@pytest.mark.parametrize(("start_s", "end_s", "fps"), [(0, 2, 25), (0.4, 1.9, 24), (1.0, 3.0, 16), (0.21, 1.7, 60)])
def test_pictures_of_a_constant_rate_are_the_nearest_ones(tmp_path, studio, start_s, end_s, fps):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(100)], fps=25, gop=40)
    report = cut(path, tmp_path, start_s=start_s, end_s=end_s, fps=fps)
    shown = numbers(tmp_path, studio)
    count = round((end_s - start_s) * fps)
    assert len(shown) == report.frames == count
    last = max(i for i in range(100) if i / 25 < end_s - 1e-6)
    reach_s = min(1 / 25, 1 / fps) / 2  # no picture comes earlier than this, and none that is due is passed over
    for k, number in enumerate(shown):
        instant_s = start_s + k / fps
        assert number / 25 - reach_s <= instant_s + 1e-6
        assert number == last or instant_s <= (number + 1) / 25 - reach_s + 1e-6
    assert shown == sorted(shown)
    if fps == 25:
        assert shown == list(range(50))


def test_a_variable_rate_becomes_constant_with_changes_where_they_were(tmp_path, studio):
    times = [0, 0.04, 0.10, 0.5, 0.53, 0.56, 1.51, 1.6]
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(8)], times_s=times)
    report = cut(path, tmp_path, end_s=1.64, fps=25)
    shown = numbers(tmp_path, studio)
    assert len(shown) == 41
    for number, time_s in enumerate(times):
        if number in shown:
            assert abs(shown.index(number) / 25 - time_s) <= 0.02 + 1e-6
    assert {0, 1, 3, 6, 7} <= set(shown)
    assert report.repeated_frames == 41 - len(set(shown))
    assert (report.nominal_frames, report.decoded_frames, report.decode_errors) == (8, 8, 0)


def test_the_picture_on_screen_at_the_start_is_the_first(tmp_path, studio):
    times = [0, 1.0, 5.0]
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(3)], times_s=times)
    cut(path, tmp_path, start_s=3.0, end_s=4.0, fps=10)
    assert numbers(tmp_path, studio) == [1] * 10


def test_a_picture_track_that_ends_early_is_held(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(i) for i in range(10)])
    report = cut(path, tmp_path, end_s=1.0)
    assert numbers(tmp_path, studio) == [*range(10), *[9] * 15]
    assert report.repeated_frames == 15


@pytest.mark.parametrize("muxer", ["mp4", "matroska"])
def test_flash_and_click_stay_together(tmp_path, studio, muxer):
    flashes = [20, 45, 61]
    frames = [np.full((96, 160, 3), 250 if i in flashes else 10, np.uint8) for i in range(75)]
    sound = studio.clicks([i / 25 for i in flashes], 3.0, 48000, channels=2)
    path = studio.video(tmp_path / "a", frames, audio=sound, container=muxer)
    start = 11 / 25
    report = cut(path, tmp_path, start_s=start, end_s=start + 2.2)
    samples, rate = soundfile.read(tmp_path / "clip.flac", always_2d=True)
    assert (rate, samples.shape) == (RATE, (round(2.2 * RATE), 2))
    assert (report.sound.samples, report.sound.padded_samples) == (round(2.2 * RATE), 0)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        bright = [i for i, f in enumerate(container.decode(video=0)) if f.to_ndarray(format="gray").mean() > 128]
    assert bright == [i - 11 for i in flashes]
    places = studio.click_places(samples.T, [i / 25 for i in bright], RATE)
    assert [p / RATE for p in places] == pytest.approx([i / 25 for i in bright], abs=0.001)


@pytest.mark.parametrize("size", [(160, 96), (176, 144), (90, 62)])
def test_a_rerun_gives_the_same_bytes(tmp_path, studio, size):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (24, 90, 3)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    frames = [np.ascontiguousarray(wide[:, 3 * i : 3 * i + 160]) for i in range(50)]
    path = studio.video(tmp_path / "a.mp4", frames, audio=studio.clicks([0.3], 2.0, 48000))
    made = set()
    for name in "abcde":
        (tmp_path / name).mkdir()
        cut(path, tmp_path / name, start_s=0.2, end_s=1.8, fps=24, size=size)
        made.add(((tmp_path / name / "clip.mp4").read_bytes(), (tmp_path / name / "clip.flac").read_bytes()))
    assert len(made) == 1


@pytest.mark.parametrize("rotate", [(0, False), (90, False), (180, False), (270, False), (0, True), (90, True)])
def test_a_crop_is_taken_from_the_upright_picture(tmp_path, studio, rotate):
    stored = np.zeros((96, 160, 3), np.uint8)
    stored[:48, :80], stored[:48, 80:], stored[48:, :80], stored[48:, 80:] = (250, 0, 0), (0, 250, 0), (0, 0, 250), 200
    path = studio.video(tmp_path / "a.mp4", [stored] * 10, rotate=rotate, options={"crf": "1"}, tag=(1, 1, 1, 1))
    seen = np.rot90(stored, rotate[0] // 90)
    seen = seen[:, ::-1] if rotate[1] else seen
    x, y, width, height = 20, 30, 52, 40
    report = cut(path, tmp_path, end_s=0.4, crop=(x, y, width, height), crf=1)
    assert (report.width, report.height) == (52, 40)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        got = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    wanted = seen[y : y + height, x : x + width].astype(int)
    flat = np.abs(np.diff(wanted, axis=0, append=wanted[-1:])).sum(-1) + np.abs(
        np.diff(wanted, axis=1, append=wanted[:, -1:])
    ).sum(-1)
    inner = np.ones_like(flat, bool)
    for row, column in zip(*np.nonzero(flat), strict=True):  # colour bleeds across edges in 4:2:0
        inner[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] = False
    assert inner.mean() > 0.3
    assert np.abs(got - seen_colours(stored, wanted))[inner].max() < 40


def seen_colours(stored, wanted):
    """The colours of `wanted` as the source codec kept them: its RGB went in as BT.601 but is tagged BT.709."""
    palette = np.unique(stored.reshape(-1, 3), axis=0)
    picture = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(palette[None].repeat(16, 0).repeat(16, 1)), format="rgb24"
    )
    coded = picture.reformat(format="yuv420p")
    coded.colorspace = 1
    kept = coded.to_ndarray(format="rgb24")[8, 8::16].astype(int)
    return kept[np.argmin(np.abs(wanted[:, :, None] - palette.astype(int)).sum(-1), axis=2)]


def test_the_clip_is_square_even_eight_bit_bt709(tmp_path, studio):
    frames = [np.full((97, 161, 3), 90, np.uint8)] * 10
    path = studio.video(tmp_path / "a.mkv", frames, pix_fmt="yuv444p10le", pixel_aspect=Fraction(3, 2))
    report = cut(path, tmp_path, end_s=0.4)
    video = probe(tmp_path / "clip.mp4").video
    assert (video.width, video.height, video.pixel_aspect) == (report.width, report.height, "1/1") == (242, 96, "1/1")
    assert (video.pixel_format, video.color_range, video.transfer, video.vfr) == ("yuv420p", "limited", "bt709", False)
    assert report.sound is None
    assert not (tmp_path / "clip.flac").exists()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv420p10le"])
def test_greys_survive_range_and_depth(tmp_path, studio, pix_fmt):
    ramp = np.arange(0, 256, 17, dtype=np.uint8).repeat(10)[None, :, None].repeat(96, 0).repeat(3, 2)
    tag = (1, 2, 1, 1) if pix_fmt == "yuvj420p" else (1, 1, 1, 1)
    path = studio.video(tmp_path / "a.mp4", [ramp] * 5, pix_fmt=pix_fmt, tag=tag, options={"crf": "1"})
    cut(path, tmp_path, end_s=0.2, crf=1)
    frame = next(iter_video_frames(tmp_path / "clip.mp4", probe(tmp_path / "clip.mp4")))
    assert np.abs(frame.rgb().astype(int)[48, 5::10] - ramp[48, 5::10]).max() <= 4


def test_short_sound_is_padded_and_surround_folded(tmp_path, studio):
    audio = np.zeros((6, 24000), np.float32)
    audio[0] = 0.25
    path = studio.sound(tmp_path / "a.wav", audio, 48000, codec="pcm_f32le")
    report = cut_audio(path, probe(path), start_s=0.25, end_s=1.25, audio_path=tmp_path / "a.flac")
    samples, _ = soundfile.read(tmp_path / "a.flac", always_2d=True)
    assert samples.shape == (RATE, 2)
    assert report.padded_samples == pytest.approx(0.75 * RATE, abs=2)
    assert np.abs(samples[RATE // 4 + 50 :]).max() == 0
    assert samples[1000, 0] > 0.05
    assert abs(samples[1000, 1]) < 1e-3


def test_a_span_after_the_sound_is_silence(tmp_path, studio):
    frames = [studio.numbered(i) for i in range(50)]
    path = studio.video(tmp_path / "a.mp4", frames, audio=studio.clicks([0.1], 0.5, 48000))
    report = cut(path, tmp_path, start_s=1.0, end_s=2.0)
    samples, _ = soundfile.read(tmp_path / "clip.flac", always_2d=True)
    assert samples.shape == (RATE, 1)
    assert not samples.any()
    assert report.sound.padded_samples == RATE


def test_what_cannot_be_cut_is_named(tmp_path, studio):
    sound = studio.sound(tmp_path / "a.wav", np.zeros((1, 8000), np.float32), 8000, codec="pcm_s16le")
    video = studio.video(tmp_path / "a.mp4", [studio.numbered(0)] * 5)
    with pytest.raises(MediaError, match="no_video_stream"):
        cut(sound, tmp_path)
    with pytest.raises(MediaError, match="no_audio_stream"):
        cut_audio(video, probe(video), start_s=0, end_s=1, audio_path=tmp_path / "a.flac")
    with pytest.raises(MediaError, match="zero_length_span"):
        cut(video, tmp_path, start_s=1.0, end_s=1.0)
