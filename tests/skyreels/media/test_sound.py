import wave

import av
import numpy as np
import psutil
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe
from skyreels.media.report import DecodeReport
from skyreels.media.sound import decode_audio, full_scale_gain, iter_audio

RATE = 48000
CLICKS = [0.1, 0.5123, 1.0, 1.777, 2.9]
LOSSLESS = [("pcm_s16le", "wav"), ("pcm_f32le", "wav"), ("flac", "flac"), ("pcm_s16le", "mov"), ("flac", "matroska")]
LOSSY = [
    ("aac", "mp4"),
    ("aac", "adts"),
    ("aac", "mpegts"),
    ("aac", "matroska"),
    ("libmp3lame", "mp3"),
    ("libmp3lame", "matroska"),
    ("libopus", "ogg"),
    ("libopus", "matroska"),
    ("libopus", "mp4"),
]


@pytest.mark.parametrize(("codec", "muxer"), LOSSLESS)
def test_lossless_sound_is_sample_exact(tmp_path, studio, codec, muxer):
    rng = np.random.default_rng(0)
    audio = np.rint(rng.uniform(-0.9, 0.9, (2, 3 * RATE)) * 32767) / 32768
    path = studio.sound(tmp_path / "a", audio.astype(np.float32), RATE, codec=codec, container=muxer)
    whole = decode_audio(path)
    assert (whole.sample_rate, whole.start_s, whole.samples.shape) == (RATE, 0.0, (2, 3 * RATE))
    assert np.abs(whole.samples - audio).max() < 1 / 30000
    span = decode_audio(path, start_s=1.2345, end_s=2.0)
    first = round(1.2345 * RATE)
    assert span.start_s == pytest.approx(first / RATE)
    assert np.array_equal(span.samples, whole.samples[:, first : 2 * RATE])


@pytest.mark.parametrize(("codec", "muxer"), LOSSY)
@pytest.mark.parametrize("start_s", [0.0, 0.9])
def test_lossy_sound_is_within_a_millisecond(tmp_path, studio, codec, muxer, start_s):
    audio = studio.clicks(CLICKS, 3.5, RATE, channels=2)
    path = studio.sound(tmp_path / "a", audio, RATE, codec=codec, container=muxer)
    heard = decode_audio(path, start_s=start_s)
    times = [t - start_s for t in CLICKS if t > start_s]
    # Raw ADTS has no field for the encoder's delay, so nothing can take it off again.
    delay = 1024 if muxer in ("adts", "mpegts") else 0
    shifted = [t + delay / RATE for t in times]
    places = studio.click_places(heard.samples, shifted, RATE)
    off = [abs(place - round(t * RATE)) for place, t in zip(places, shifted, strict=True)]
    assert max(off) <= RATE // 1000


@pytest.fixture(scope="module", params=["wav", "mp4", "matroska"])
def sweep(request, studio, tmp_path_factory):
    """A rising tone: no two places in it sound alike."""
    codec = {"wav": "pcm_s16le", "mp4": "aac", "matroska": "libopus"}[request.param]
    t = np.arange(6 * RATE) / RATE
    audio = 0.4 * np.sin(2 * np.pi * (300 * t + 250 * t**2))[None].astype(np.float32)
    path = tmp_path_factory.mktemp("sweep") / "a"
    return studio.sound(path, audio, RATE, codec=codec, container=request.param)


@settings(max_examples=15, deadline=None)
@given(start=st.floats(0, 5.5), length=st.floats(0.05, 2))
def test_a_span_is_cut_from_the_same_sound(sweep, start, length):
    whole = decode_audio(sweep).samples[0]
    span = decode_audio(sweep, start_s=start, end_s=start + length).samples[0]
    first, last = round(start * RATE), min(round((start + length) * RATE), len(whole))
    # Matroska rounds times to a millisecond, so the end of a track may lie as much beside it.
    assert abs(len(span) - (last - first)) <= RATE // 1000
    inner = span[200:-200]
    starts = [first + 200 + k for k in range(-RATE // 1000, RATE // 1000 + 1)]
    likeness = [np.corrcoef(inner, whole[at : at + len(inner)])[0, 1] for at in starts if at + len(inner) <= len(whole)]
    assert max(likeness) > 0.99


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_resampling_keeps_times_and_counts(tmp_path, studio, rate):
    t = np.arange(3 * RATE) / RATE
    audio = np.stack([np.sin(2 * np.pi * 440 * t), np.cos(2 * np.pi * 1000 * t)]).astype(np.float32) * 0.5
    path = studio.sound(tmp_path / "a.wav", audio, RATE, codec="pcm_f32le")
    heard = decode_audio(path, sample_rate=rate)
    assert heard.samples.shape == (2, 3 * rate)
    u = np.arange(3 * rate) / rate
    expected = np.stack([np.sin(2 * np.pi * 440 * u), np.cos(2 * np.pi * 1000 * u)]) * 0.5
    inner = slice(200, -200)
    assert np.abs(heard.samples[:, inner] - expected[:, inner]).max() < 0.002
    blocks = list(iter_audio(path, sample_rate=rate))
    assert np.array_equal(np.concatenate([b.samples for b in blocks], axis=1), heard.samples)
    starts = np.cumsum([0] + [b.samples.shape[1] for b in blocks[:-1]]) / rate
    assert [b.start_s for b in blocks] == pytest.approx(list(starts))


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_has_the_same_scale(tmp_path, studio, codec):
    audio = np.tile(np.array([[0.0, 0.5, -0.5, 0.25]], np.float32), 4000)
    path = studio.sound(tmp_path / "a.wav", audio, 16000, codec=codec)
    assert np.abs(decode_audio(path).samples - audio).max() <= 1 / 127


def test_mono_is_the_mean_and_stereo_folds_surround(tmp_path, studio):
    audio = np.zeros((6, RATE), np.float32)
    audio[0] = 0.5  # front left
    audio[2] = 0.25  # centre
    path = studio.sound(tmp_path / "a.wav", audio, RATE, codec="pcm_f32le")
    assert decode_audio(path).samples.shape[0] == 6
    assert decode_audio(path, mono=True).samples[0, 5000] == pytest.approx(0.75 / 6)
    left, right = np.concatenate([b.samples for b in iter_audio(path, stereo=True)], axis=1)[:, 5000]
    assert left > right > 0.05
    assert left / right == pytest.approx((0.5 + 0.25 / np.sqrt(2)) / (0.25 / np.sqrt(2)), rel=0.01)


@pytest.mark.parametrize("codec", ["flac", "pcm_f32le", "aac"])
def test_eight_channels_are_eight(tmp_path, studio, codec):
    # PyAV's own conversion takes memory behind the frame for more channels here, and may crash on it.
    levels = np.linspace(0.1, 0.8, 8, dtype=np.float32)
    audio = levels[:, None] * np.sin(2 * np.pi * 60 * np.arange(RATE) / RATE, dtype=np.float32)
    path = studio.sound(tmp_path / "a", audio, RATE, codec=codec, container="matroska")
    heard = decode_audio(path).samples
    assert heard.shape[0] == 8
    assert np.sort(np.abs(heard[:, 9600:38400]).max(axis=1)) == pytest.approx(levels, abs=0.05)
    assert decode_audio(path, sample_rate=16000).samples.shape == (8, round(heard.shape[1] / 3))


def test_more_channels_than_a_cinema_has_are_refused(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setparams((33, 2, 16000, 0, "NONE", ""))
        out.writeframes(bytes(66 * 1000))
    with pytest.raises(MediaError, match="too_many_channels"):
        decode_audio(tmp_path / "a.wav")


def test_sound_keeps_its_place_beside_the_picture(tmp_path, studio):
    frames = [studio.numbered(i) for i in range(75)]
    for muxer, codec in (("mp4", "aac"), ("matroska", "aac"), ("mpegts", "aac"), ("mpegts", "libmp3lame")):
        path = studio.video(
            tmp_path / f"a.{muxer}",
            frames,
            container=muxer,
            audio=studio.clicks([0.5, 1.5], 2.0, RATE),
            audio_codec=codec,
            audio_start_s=0.5,
        )
        heard = decode_audio(path, start_s=0.0, end_s=3.0)
        places = studio.click_places(heard.samples, [1.0, 2.0], RATE)
        assert [p / RATE for p in places] == pytest.approx([1.0, 2.0], abs=0.001)
        assert np.abs(heard.samples[:, : round(0.4 * RATE)]).max() < 1e-3


def test_spans_beyond_the_track(tmp_path, studio):
    path = studio.sound(tmp_path / "a.wav", np.ones((1, 16000), np.float32) * 0.5, 16000, codec="pcm_s16le")
    assert decode_audio(path, start_s=0.5, end_s=9).samples.shape == (1, 8000)
    with pytest.raises(MediaError, match="no_samples"):
        decode_audio(path, start_s=2.0)


def test_a_video_without_sound_says_so(tmp_path, studio):
    path = studio.video(tmp_path / "a.mp4", [studio.numbered(0)] * 3)
    with pytest.raises(MediaError, match="no_audio_stream"):
        decode_audio(path)


def test_a_truncated_track_gives_what_is_left(tmp_path, studio):
    rng = np.random.default_rng(0)
    path = studio.sound(
        tmp_path / "a.flac", rng.uniform(-0.5, 0.5, (1, 5 * RATE)).astype(np.float32), RATE, codec="flac"
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = DecodeReport()
    seconds = sum(b.duration_s for b in iter_audio(path, report=report))
    assert 2.0 < seconds < 3.0
    assert probe(path).truncated


def test_an_hour_stays_flat_in_memory(tmp_path):
    rate = 8000
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 1, rate, 0, "NONE", ""))
        for _ in range(60):
            out.writeframes(bytes(range(256)) * (60 * rate // 256) + bytes(60 * rate % 256))
    process = psutil.Process()
    before, peak, seconds = process.memory_info().rss, 0, 0.0
    for index, block in enumerate(iter_audio(path, mono=True)):
        seconds += block.duration_s
        if index % 1000 == 0:
            peak = max(peak, process.memory_info().rss)
    assert seconds == pytest.approx(3600)
    assert peak - before < 32 * 2**20  # the whole track would take 115 MB


def test_the_duration_cap_holds_while_decoding(tmp_path, studio):
    path = studio.sound(tmp_path / "a.wav", np.zeros((1, 32000), np.float32), 16000, codec="pcm_s16le")
    with pytest.raises(MediaError, match="too_long"):
        decode_audio(path, limits=MediaLimits(max_duration_s=1.0))


def tracks(path, levels, dispositions, *, titles=None, container="matroska"):
    """A file with one track of a tone per level, 300 Hz, 600 Hz, ..., flagged as told."""
    streams = []
    with av.open(str(path), "w", format=container) as out:
        for index in range(len(levels)):
            stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
            stream.disposition = dispositions[index]
            if titles:
                stream.metadata["title"] = titles[index]
            streams.append(stream)
        time = np.arange(RATE) / RATE
        for index, (stream, level) in enumerate(zip(streams, levels, strict=True)):
            wave = (level * 32767 * np.sin(2 * np.pi * 300 * (index + 1) * time)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("levels", "dispositions", "titles", "heard"),
    [
        ((0.5, 0.5), (Disposition.comment, Disposition(0)), None, 1),
        ((0.5, 0.5, 0.5), (Disposition(0), Disposition(0), Disposition.default), None, 2),
        ((0.0, 0.5), (Disposition.default, Disposition(0)), None, 1),
        ((0.5, 0.5), (Disposition.visual_impaired, Disposition(0)), None, 1),
        ((0.5, 0.5), (Disposition(0), Disposition(0)), ("Director's Commentary", "Stereo"), 1),
        ((0.0, 0.0), (Disposition(0), Disposition.default), None, 1),
        ((0.0, 0.5, 0.5), (Disposition.default, Disposition.comment, Disposition(0)), None, 2),
        ((0.5,), (Disposition.comment,), None, 0),
    ],
)
def test_the_track_that_is_meant_is_heard(tmp_path, levels, dispositions, titles, heard):
    path = tracks(tmp_path / "a.mka", levels, dispositions, titles=titles)
    facts = probe(path)
    assert (facts.audio.stream, facts.audio.tracks) == (heard, len(levels))
    samples = decode_audio(path, facts).samples[0]
    if levels[heard]:
        assert np.abs(np.fft.rfft(samples)).argmax() == 300 * (heard + 1)


def test_a_fold_is_turned_down_by_its_peak_alone():
    assert full_scale_gain(np.array([[0.5, -0.9]])) == 1.0
    assert full_scale_gain(np.zeros((2, 10))) == 1.0
    assert full_scale_gain(np.array([[0.5, -2.0]])) == pytest.approx(0.5, abs=1e-4)
