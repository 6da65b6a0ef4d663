import os
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from skyreels.media.encode import write_flac, write_video

RATE = 44100


def clip(count=24, size=(48, 64)):
    y, x = np.mgrid[: size[0], : size[1]]
    for index in range(count):
        yield np.stack([(x * 3 + index * 5) % 256, y * 4, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def decoded_sound(path):
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_rerun_writes_the_same_bytes(tmp_path, codec):
    audio = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", clip(), 24, audio=audio, codec=codec)
        write_flac(tmp_path / f"{name}.flac", audio, RATE)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()


def test_no_thread_is_scheduled_before_others_while_av1_is_made(tmp_path):
    def threads():
        return {int(number) for number in os.listdir("/proc/self/task")}

    policies, before = {}, threads()

    def watched():
        for frame in clip(40):
            yield frame
            for number in threads() - before | {0}:
                with suppress(ProcessLookupError):  # a thread that ended since, another test's or the encoder's
                    policies[number] = os.sched_getscheduler(number)

    write_video(tmp_path / "a.mp4", watched(), 24, codec="av1")
    assert len(policies) > 1, "the encoder has threads"
    assert set(policies.values()) == {os.SCHED_OTHER}


@pytest.mark.parametrize("channels", [1, 2])
def test_an_impulse_comes_back_where_it_was(tmp_path, channels):
    places = [5, 10_000, 44_100, 80_000]
    audio = np.zeros((channels, 2 * RATE), np.float32)
    audio[:, places] = 0.9
    write_video(tmp_path / "a.mp4", clip(48), 24, audio=audio)
    heard = decoded_sound(tmp_path / "a.mp4")[0]
    for place in places:
        first = max(0, place - 2000)
        assert abs(first + np.abs(heard[first : place + 2000]).argmax() - place) < 0.001 * RATE
    assert heard.size - audio.shape[1] in range(1024)  # the last AAC frame is padded, nothing is lost


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_beside_av1_an_impulse_comes_back_where_it_was_and_nothing_is_lost(tmp_path, rate):
    places = [rate // 10, rate // 2, 2 * rate - rate // 8]
    audio = np.zeros((2, 2 * rate), np.float32)
    audio[:, places] = 0.9
    write_video(tmp_path / "a.mp4", clip(48), 24, audio=audio, sample_rate=rate, codec="av1")
    with av.open(str(tmp_path / "a.mp4")) as container:
        names = [stream.codec.canonical_name for stream in container.streams]
        heard_rate = container.streams.audio[0].codec_context.sample_rate
        seconds = float(container.duration / av.time_base)
    assert (*names, heard_rate) == ("av1", "opus", 48_000)
    assert seconds == pytest.approx(2.0, abs=0.021), "an Opus frame is 20 ms"
    heard = decoded_sound(tmp_path / "a.mp4")[0]
    for place in places:
        middle = round(place * heard_rate / rate)
        first = max(0, middle - heard_rate // 20)
        assert abs(first + np.abs(heard[first : middle + heard_rate // 20]).argmax() - middle) < 0.001 * heard_rate


@pytest.mark.parametrize(
    ("fps", "quality"), [(24, {}), (16.0, {}), (Fraction(30000, 1001), {}), (24, {"codec": "av1", "crf": 20})]
)
def test_frames_keep_their_number_times_and_colours(tmp_path, fps, quality):
    assert write_video(tmp_path / "a.mp4", clip(20), fps, **{"crf": 10} | quality) == 20
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(fps)
        frames = list(container.decode(video=0))
    assert len(frames) == 20
    assert [frame.time for frame in frames] == pytest.approx([n / Fraction(fps) for n in range(20)], abs=1e-3)
    for frame, original in zip(frames, clip(20), strict=True):
        rgb = frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray().astype(int)
        # Chroma has half the resolution, so only the average difference is small.
        assert np.abs(rgb - original).mean() < 6


def test_stream_is_tagged_bt709_yuv420p_and_starts_fast(tmp_path):
    write_video(tmp_path / "a.mp4", clip(), 24, audio=np.zeros((2, RATE), np.float32))
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert container.streams.audio[0].codec_context.name == "aac"
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_gop_bounds_the_distance_of_keyframes(tmp_path):
    write_video(tmp_path / "a.mp4", clip(30), 24, gop=7)
    with av.open(str(tmp_path / "a.mp4")) as container:
        keys = [n for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys[0] == 0
    assert max(np.diff([*keys, 30])) <= 7


def test_aac_keeps_the_band_above_14_khz(tmp_path):
    audio = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    write_video(tmp_path / "a.mp4", clip(), 24, audio=audio)
    power = np.abs(np.fft.rfft(decoded_sound(tmp_path / "a.mp4")[0, :RATE])) ** 2
    assert power[14_000:16_000].mean() > 0.5 * power[1_000:3_000].mean()


def test_flac_holds_every_sample(tmp_path):
    audio = np.random.default_rng(1).uniform(-1, 1, (2, 12_345)).astype(np.float32)
    write_flac(tmp_path / "a.flac", audio, 48_000)
    read, rate = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert rate == 48_000
    assert read.T.shape == audio.shape
    assert np.abs(read.T - audio).max() <= 1 / 32_768
    write_flac(tmp_path / "again.flac", read.T, 48_000)
    assert (tmp_path / "again.flac").read_bytes() == (tmp_path / "a.flac").read_bytes()


@pytest.mark.parametrize(
    ("frames", "options", "says"),
    [
        ([], {}, "no frames"),
        ([np.zeros((48, 63, 3), np.uint8)], {}, "even sides"),
        ([np.zeros((48, 64), np.uint8)], {}, "RGB"),
        ([np.zeros((48, 64, 3), np.float32)], {}, "frame 0"),
        ([np.zeros((48, 64, 3), np.uint8), np.zeros((48, 62, 3), np.uint8)], {}, "frame 1"),
        ([np.zeros((48, 64, 3), np.uint8)], {"fps": 0}, "fps"),
        ([np.zeros((48, 64, 3), np.uint8)], {"audio": np.zeros((3, 1000), np.float32)}, "3 channels"),
        ([np.zeros((48, 64, 3), np.uint8)], {"audio": np.zeros(1000, np.float32)}, "channels, samples"),
        ([np.zeros((48, 64, 3), np.uint8)], {"audio": np.full((1, 1000), np.nan, np.float32)}, "NaN"),
    ],
)
def test_bad_input_is_named(tmp_path, frames, options, says):
    with pytest.raises(ValueError, match=says):
        write_video(tmp_path / "a.mp4", frames, **{"fps": 24, **options})


def test_frames_are_taken_one_at_a_time(tmp_path):
    alive, peak = [0], [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive[0] -= 1

    def watched():
        for _ in range(60):
            frame = np.zeros((32, 32, 3), np.uint8).view(Counted)
            alive[0] += 1
            peak[0] = max(peak[0], alive[0])
            yield frame

    write_video(tmp_path / "a.mp4", watched(), 24, audio=np.zeros((1, RATE), np.float32))
    assert peak[0] <= 4
