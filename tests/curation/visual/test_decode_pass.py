"""The pass as a whole: one entry per frame, memory that does not grow with the picture, odd files."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.curation.visual.decode_pass import DecodePassConfig, run_decode_pass
from pipelines.curation.visual.prefilter import PrefilterScores, prefilter_scores
from pipelines.curation.visual.sampled_frames import read_rgb
from pipelines.curation.visual.scores import clip_scores
from pipelines.curation.visual.working_frame import WorkingFrame
from pipelines.synthesis import defects
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render
from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_video
from skyreels.media.errors import MediaError
from skyreels.media.facts import Probe
from skyreels.media.probe import probe


def gradient(n: int, width: int = 640, height: int = 360) -> np.ndarray:
    """(H, W, 3) RGB that brightens with n, red on the left and blue at the bottom."""
    x, y = np.meshgrid(np.linspace(0, 120, width), np.linspace(0, 120, height))
    return np.stack([200 - x + n, 60 + 0 * x + n, 40 + y + n], axis=-1).clip(0, 255).astype(np.uint8)


def test_counts_and_rates_are_kept(tmp_path):
    path = tmp_path / "film.mp4"
    write_video(path, (gradient(n) for n in range(75)), 25)
    timeline = run_decode_pass(path, probe(path))
    assert (timeline.width, timeline.height) == (640, 360)
    assert len(timeline.frames) == timeline.report.decoded_frames == 75
    assert timeline.frames.time_s == pytest.approx(np.arange(75) / 25, abs=1e-6)
    assert len(timeline.samples) == 3
    assert len(timeline.looks) == 6
    assert [b - a for a, b in pairwise(timeline.flow.time_s)] == pytest.approx([0.1] * 28, abs=0.041)
    sample = read_rgb(timeline.samples[1])
    assert sample.shape == (256, 455, 3)
    assert np.abs(cv2.resize(gradient(25), (455, 256)).astype(int) - sample).mean() < 4


def test_small_pictures_are_what_a_full_conversion_gives(tmp_path):
    path = tmp_path / "film.mp4"
    write_video(path, (gradient(n) for n in range(3)), 25)
    frame = next(iter_video_frames(path, probe(path)))
    working = WorkingFrame(frame, 640, 360)
    assert working.small.shape == (180, 320)
    reference = cv2.resize(frame.bgr(), (320, 180), interpolation=cv2.INTER_AREA)
    # BT.601 against BT.709 moves saturated colours a little; a swapped plane or a wrong range moves them far.
    assert np.abs(working.small_bgr.astype(int) - reference).mean() < 10
    assert np.abs(working.small_bgr.astype(int) - reference[..., ::-1]).mean() > 30


def test_long_videos_do_not_fill_the_memory(tmp_path):
    path = tmp_path / "film.mp4"
    write_video(path, (gradient(n % 50, 320, 180) for n in range(250)), 25)
    timeline = run_decode_pass(path, probe(path), config=DecodePassConfig(max_samples=4))
    assert len(timeline.samples) == 4
    curves = timeline.nbytes - sum(len(sample.jpeg) for sample in timeline.samples)
    assert curves * 2 * 3600 / 10.0 < 200e6


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p"])
def test_other_pixel_formats_measure_the_same(tmp_path, pixels):
    timelines = []
    for layout in ("yuv420p", pixels):
        path = tmp_path / f"{layout}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 320, 180, layout
            for n in range(20):
                frame = av.VideoFrame.from_ndarray(gradient(n, 320, 180), format="rgb24")
                container.mux(stream.encode(frame.reformat(format=layout)))
            container.mux(stream.encode())
        timelines.append(run_decode_pass(path, probe(path)))
    plain, other = (clip_scores(timeline, 0.0, 1.0) for timeline in timelines)
    assert other.luma_mean == pytest.approx(plain.luma_mean, abs=1.0)
    assert other.contrast == pytest.approx(plain.contrast, abs=1.0)
    assert other.motion == pytest.approx(plain.motion, abs=0.02)


def test_a_file_without_pictures_is_refused(tmp_path):
    sound = Probe(container="wav", file_bytes=1, duration_s=1.0, clock_zero_s=0.0, truncated=False)
    for measure in (run_decode_pass, prefilter_scores):
        with pytest.raises(MediaError, match="no_video_stream"):
            measure(tmp_path / "sound.wav", sound)


@pytest.mark.parametrize(("width", "height"), [(50, 50), (362, 202), (250, 50), (54, 260)])
def test_odd_sizes_are_measured(tmp_path, width, height):
    path = tmp_path / "odd.mp4"
    write_video(path, (gradient(n, width, height) for n in range(30)), 10)
    timeline = run_decode_pass(path, probe(path))
    assert clip_scores(timeline, 0.0, 3.0).luma_mean == pytest.approx(timeline.frames.luma_mean.mean())


@pytest.mark.parametrize(("width", "height"), [(32, 64), (400, 64)])
def test_pictures_too_small_to_measure_are_refused(tmp_path, width, height):
    path = tmp_path / "small.mp4"
    write_video(path, (gradient(n, width, height) for n in range(3)), 10)
    with pytest.raises(MediaError, match="too_small"):
        run_decode_pass(path, probe(path))


def test_the_prefilter_sees_the_worst_without_decoding_all(tmp_path):
    film = replace(sample_film(5, size=(320, 180), fps=12, seconds=4.0, sound="impacts"), letterbox=0.1)
    scores: dict[str, PrefilterScores] = {}
    for name, tamper in (("clean", list), ("blur", defects.blur), ("under", lambda f: defects.expose(f, -5.0))):
        path = tmp_path / f"{name}.mp4"
        write_video(path, tamper(render(film).frames()), film.fps, gop=12)
        scores[name] = prefilter_scores(path, probe(path))
    assert scores["clean"].key_frames == 4
    assert scores["clean"].short_side == pytest.approx(144, abs=6)
    assert scores["clean"].border_fraction == pytest.approx(0.2, abs=0.04)
    assert scores["blur"].sharpness < 0.7 * scores["clean"].sharpness
    assert scores["under"].contrast < 12 < scores["clean"].contrast
    assert scores["clean"].dark_fraction == 0.0
    with pytest.raises(ValidationError):
        scores["clean"].luma_mean = 0.0
