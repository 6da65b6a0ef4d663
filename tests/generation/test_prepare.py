"""Requests to prepared calls: files by name, and clocks of all kinds on which picture and sound stay together."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from model.generation.components import read_spec
from model.generation.prepared import Prepared
from model.generation.wire import from_bytes, to_bytes
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.request import GenerationRequest, RequestError
from skyreels.media.encode import write_wav

pytestmark = pytest.mark.slow

RATE, FPS, CLICK = 44_100, 16, 400


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


@pytest.fixture(scope="module")
def ready(model_folder, reader):
    """ready(files, **request): the prepared call, as a process that has its bytes alone sees it."""
    spec = read_spec(model_folder)

    def make(files, **values):
        request = GenerationRequest(prompt=values.pop("prompt", "x"), seed=1, **values)
        return from_bytes(Prepared, to_bytes(prepare(request, files, spec, reader)))

    return make


def written(path, picture_times, flash_s, *, sound_from=0.0, seconds):
    """Matroska: black pictures at `picture_times`, white from `flash_s` on; sound from `sound_from`, a click then."""
    sound = np.zeros((1, round((seconds - sound_from) * RATE)), np.float32)
    click = round((flash_s - sound_from) * RATE)
    sound[0, click : click + CLICK] = 0.9
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=1000, options={"crf": "1", "tune": "zerolatency"})
        video.width = video.height = 32
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        heard = container.add_stream("flac", rate=RATE, layout="mono")
        for at in picture_times:
            level = 255 if at >= flash_s - 1e-6 else 0
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * at), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, sound.shape[1], 4096):
            block = (sound[:, start : start + 4096] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.rate, frame.pts = RATE, start + round(sound_from * RATE)
            frame.time_base = Fraction(1, RATE)
            container.mux(heard.encode(frame))
        container.mux(heard.encode(None))
    return {"clip": path}


EVEN = np.arange(0, 2.5, 1 / FPS)
CLOCKS = {
    "from 0": (EVEN, 1.0, 0.0),
    "late pictures": (EVEN + 1.5, 2.5, 0.0),
    "late sound": (EVEN, 1.5, 0.75),
    "late both": (EVEN + 0.5, 1.75, 1.0),
    "held pictures": (np.array([0.0, 0.1, 1.1, 1.15, 2.4]), 1.1, 0.0),
    "late and held": (np.array([0.8, 0.9, 1.9, 2.5, 3.0]), 1.9, 0.0),
    "half a frame off": (EVEN + 0.53125, 0.53125 + 1.0, 0.0),
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("use", ["edit", "extend", "inpaint"])
def test_a_video_and_its_own_sound_stay_together(ready, tmp_path, media, clock, use):
    times, flash_s, sound_from = CLOCKS[clock]
    files = written(tmp_path / "clip.mkv", times, flash_s, sound_from=sound_from, seconds=times[-1] + 0.5)
    asked = {"edit": {"video_use": "edit"}, "extend": {"seconds": 6}, "inpaint": {"mask": "hole"}}[use]
    call = ready({**files, "hole": media / "hole.png"}, video="clip", audio="clip", **asked)
    frames = call.media.video.numpy().mean((1, 2, 3))
    if use == "extend":  # the last whole latents are kept, and begin the result
        frames = frames[-call.clip.video.whole_frames(len(frames)) :]
    seen = np.argmax(frames > 128) / FPS
    heard = np.argmax(call.media.audio[0].abs().numpy() > 0.3) / RATE
    assert abs(seen - heard) <= 1 / FPS
    assert seen == pytest.approx(flash_s - times[0], abs=4 / FPS if use == "extend" else 1 / FPS)


def test_the_sound_of_another_file_starts_with_the_result(ready, tmp_path):
    files = written(tmp_path / "clip.mkv", EVEN + 1.0, 2.0, seconds=4)
    other = written(tmp_path / "other.mkv", EVEN, 1.25, sound_from=0.5, seconds=3)["clip"]
    call = ready({**files, "other": other}, video="clip", audio="other", video_use="edit")
    assert np.argmax(call.media.audio[0].abs().numpy() > 0.3) / RATE == pytest.approx(1.25, abs=0.01)


def test_the_sound_of_a_clip_that_is_led_up_to_is_refused(ready, tmp_path):
    files = written(tmp_path / "clip.mkv", EVEN, 1.0, seconds=3)
    with pytest.raises(
        RequestError, match=r"audio: .*sounds where the result ends: give the sound of the whole result"
    ):
        ready(files, video="clip", audio="clip", video_use="lead_up", seconds=6)


def test_a_voice_starts_where_it_sounds(ready, tmp_path):
    files = written(tmp_path / "clip.mkv", [], 1.0, sound_from=0.9, seconds=2)
    call = ready(files, prompt="@voice", references={"@voice": ("clip",)})
    assert np.argmax(call.references[0].waveform[0].abs().numpy() > 0.3) / RATE == pytest.approx(0.1, abs=0.01)


def test_sound_that_is_no_number_is_refused(ready, tmp_path):
    import soundfile

    soundfile.write(str(tmp_path / "nan.wav"), np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="audio holds NaN"):
        ready({"a": tmp_path / "nan.wav"}, audio="a")


def test_a_seed_is_drawn_once_and_travels_with_the_call(model_folder, reader):
    spec = read_spec(model_folder)
    request = GenerationRequest(prompt="x")
    seeds = {prepare(request, {}, spec, reader).seed for _ in range(3)}
    assert len(seeds) == 3
    assert None not in seeds


def test_nothing_of_a_path_is_in_what_is_handed_on(ready, tmp_path):
    write_wav(tmp_path / "voice.wav", np.full((1, RATE), 0.1, np.float32), RATE)
    call = ready({"upload-7": Path(tmp_path / "voice.wav")}, audio="upload-7")
    assert str(tmp_path).encode() not in to_bytes(call)
    assert b"upload-7" not in to_bytes(call)
    assert torch.allclose(call.media.audio, torch.tensor(0.1), atol=1e-3)
