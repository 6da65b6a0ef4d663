"""Media for the tests, made through PyAV alone, so that what is under test never judges itself."""

import os
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

BITS = 10


def numbered(index, width=160, height=96):
    """A grey picture with `index` burned in as a row of black and white blocks: it survives lossy coding."""
    picture = np.full((height, width, 3), 128, np.uint8)
    block = width // BITS
    for bit in range(BITS):
        picture[: height // 2, bit * block : (bit + 1) * block] = 235 if index >> bit & 1 else 20
    return picture


def number_of(luma):
    """Reads what `numbered` burned in off an upright luma or RGB array."""
    grey = luma if luma.ndim == 2 else luma.mean(axis=2)
    height, width = grey.shape
    block = width // BITS
    return sum(1 << bit for bit in range(BITS) if grey[height // 4, bit * block + block // 2] > 128)


@contextmanager
def scheduled_as_before():
    """SVT-AV1, run as root, puts its whole process under real-time scheduling, and every other would starve."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@scheduled_as_before()
def make_video(
    path,
    frames,
    *,
    fps=25,
    times_s=None,
    codec="libx264",
    pix_fmt="yuv420p",
    container=None,
    gop=12,
    options=None,
    tag=None,
    rotate=None,
    pixel_aspect=None,
    audio=None,
    audio_codec="aac",
    audio_rate=48000,
    audio_start_s=0.0,
    muxer_options=None,
):
    """Write RGB arrays or VideoFrames, and (C, N) float32 sound, as any codec in any container.

    `times_s` gives each frame its own time; `tag` (colorspace, range, trc, primaries) marks the stream;
    `rotate` is (degrees counter-clockwise, mirrored) of the display matrix.
    """
    frames = [f if isinstance(f, av.VideoFrame) else av.VideoFrame.from_ndarray(f, format="rgb24") for f in frames]
    with av.open(str(path), "w", format=container, options=muxer_options or {}) as out:
        stream = out.add_stream(codec, rate=Fraction(fps), options={"threads": "1"} | (options or {}))
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        context = stream.codec_context
        context.gop_size, context.thread_count = gop, 1
        context.time_base = Fraction(1, 90000) if times_s is not None else 1 / Fraction(fps)
        if tag:
            context.colorspace, context.color_range, context.color_trc, context.color_primaries = tag
        if pixel_aspect:
            context.sample_aspect_ratio = pixel_aspect
        if rotate:
            stream.set_display_rotation(rotate[0], hflip=rotate[1])
        sound = None
        if audio is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[audio.shape[0]]
            sound = out.add_stream(audio_codec, rate=audio_rate, layout=layout)
        for index, frame in enumerate(frames):
            if frame.format.name != pix_fmt:
                frame = frame.reformat(format=pix_fmt)
            frame.pict_type = 0
            frame.time_base = context.time_base
            frame.pts = round(times_s[index] * 90000) if times_s is not None else index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _encode_sound(out, sound, audio, audio_rate, audio_start_s)
    return path


def make_sound(path, audio, rate, *, codec, container=None, sample_format=None):
    with av.open(str(path), "w", format=container) as out:
        layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(audio.shape[0], f"{audio.shape[0]} channels")
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if sample_format:
            stream.codec_context.format = sample_format
        _encode_sound(out, stream, audio, rate, 0.0)
    return path


def _encode_sound(out, stream, audio, rate, start_s):
    context = stream.codec_context
    context.time_base = Fraction(1, rate)
    to_codec = av.AudioResampler(format=context.format.name, layout=context.layout.name, rate=rate)
    step = context.frame_size or 1024
    for start in range(0, audio.shape[1], step):
        block = audio[:, start : start + step].astype(np.float32).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=context.layout.name)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start + round(start_s * rate)
        for converted in to_codec.resample(frame):
            out.mux(stream.encode(converted))
    out.mux(stream.encode(None))


def clicks(times_s, duration_s, rate, channels=1):
    """Silence with a click two samples wide at each time."""
    audio = np.zeros((channels, round(duration_s * rate)), np.float32)
    for time_s in times_s:
        audio[:, round(time_s * rate)] = 0.9
    return audio


def click_places(samples, times_s, rate, window_s=0.02):
    """Sample index of the loudest sample near each time."""
    places = []
    for time_s in times_s:
        low = max(0, round((time_s - window_s) * rate))
        places.append(low + int(np.abs(samples[0, low : round((time_s + window_s) * rate)]).argmax()))
    return places


@pytest.fixture(scope="session")
def studio():
    """The makers above; test files cannot import each other."""
    return SimpleNamespace(
        numbered=numbered,
        number_of=number_of,
        video=make_video,
        sound=make_sound,
        clicks=clicks,
        click_places=click_places,
    )
