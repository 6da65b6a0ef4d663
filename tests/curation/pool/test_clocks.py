"""From a file with an odd clock to its clips: pictures where they are, sound beside them, a reason for the rest."""

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from pipelines.curation.pool.cut import clip_rate, cut_clips
from pipelines.curation.pool.measure import measure_source, probe_source
from pipelines.curation.pool.segments import SegmentLimits, Span, Uncovered, held_pictures, on_pictures
from pipelines.curation.recipe import CutConfig, load_recipe
from skyreels.media.limits import DEFAULT_LIMITS

FPS, RATE, WIDTH, HEIGHT, BITS = 25, 48000, 192, 112, 8
TEXTURE = np.random.default_rng(7).integers(90, 166, (HEIGHT // 16, 60, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


def picture(number, flash=False):
    """A panning texture with its number as black and white blocks, one of which changes; or nothing but white."""
    shown = TEXTURE[:, number : number + WIDTH].copy()
    if flash:
        return np.full_like(shown, 235)
    for bit in range(BITS):
        shown[:12, bit * WIDTH // BITS : (bit + 1) * WIDTH // BITS] = 160 if (number ^ number >> 1) >> bit & 1 else 90
    return shown


def record(path, times_s, flashes=(), *, first=0, sound=None, container=None, codec="libx264", audio_codec="mp2"):
    """Pictures at their times; `sound` is (start, end): there it clicks whenever a picture flashes."""
    with av.open(str(path), "w", format=container) as out:
        video = out.add_stream(codec, rate=FPS, options={"threads": "1", "crf": "14", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base, video.codec_context.gop_size = Fraction(1, 90000), 25
        heard = out.add_stream(audio_codec, rate=RATE, layout="mono") if sound else None
        for index, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(picture(first + index, index in flashes), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time_s * 90000), Fraction(1, 90000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if heard is not None:
            _speak(out, heard, sound, [times_s[index] for index in flashes])
    return path


def _speak(out, stream, span, clicks_s):
    start_s, end_s = span
    samples = np.random.default_rng(5).normal(0, 0.003, round((end_s - start_s) * RATE)).astype(np.float32)
    for time_s in clicks_s:
        at = round((time_s - start_s) * RATE)
        samples[at : at + 150] += 0.8
    stream.codec_context.time_base = Fraction(1, RATE)
    convert = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=RATE)
    for at in range(0, len(samples), 1152):
        frame = av.AudioFrame.from_ndarray(samples[None, at : at + 1152], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), at + round(start_s * RATE)
        for converted in convert.resample(frame):
            out.mux(stream.encode(converted))
    out.mux(stream.encode(None))


def extract(path, scratch, *overrides):
    """(what was measured, clips that were cut) of one source, in this process."""
    scratch.mkdir()
    recipe = load_recipe("default", overrides)
    request = {
        "path": str(path),
        "source_id": "s",
        "extract": recipe.extract.model_dump(mode="json"),
        "limits": asdict(DEFAULT_LIMITS),
    }
    probed = probe_source(request, scratch)
    request |= {"probe": probed["probe"], "kind": probed["kind"]}
    measured = measure_source(request, scratch)
    request["clips"] = measured["clips"]
    clips = cut_clips(request, scratch)["clips"]
    assert all(clip["rejection"] is None for clip in clips)
    return measured, clips


def numbers(scratch, clip):
    with av.open(str(scratch / f"{clip['key']}.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24").mean(axis=2) for frame in container.decode(video=0)]
    step, number_of = WIDTH // BITS, {number ^ number >> 1: number for number in range(1 << BITS)}
    read = [sum(1 << bit for bit in range(BITS) if grey[5, bit * step + step // 2] > 125) for grey in shown]
    return [None if grey.min() > 200 else number_of[code] for code, grey in zip(read, shown, strict=True)], shown


def but(count, flashes, first=0):
    """What `numbers` reads where every picture is shown once."""
    return [None if index in flashes else first + index for index in range(count)]


def flashes_and_clicks(scratch, clip):
    _, shown = numbers(scratch, clip)
    seen = [index / clip["fps"] for index, grey in enumerate(shown) if grey.min() > 200]
    samples, rate = soundfile.read(scratch / f"{clip['key']}.flac", always_2d=True)
    loud = np.flatnonzero(np.abs(samples[:, 0]) > 0.3)
    return seen, [n / rate for n in loud[np.insert(np.diff(loud) > rate // 10, 0, True)]] if len(loud) else []


def covered(measured, clips, until_s):
    spans = sorted([*((c["start_s"], c["end_s"]) for c in clips), *((a, b) for a, b, _ in measured["uncovered"])])
    at = 0.0
    for start_s, end_s in spans:
        assert start_s - at < 0.15
        at = max(at, end_s)
    assert until_s - at < 0.15


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize(("picture_s", "sound"), [(2.0, (0.0, 6.0)), (0.0, (1.5, 4.0)), (0.0, (0.0, 6.5))])
def test_a_clip_is_where_the_picture_is_and_in_sync(tmp_path, container, picture_s, sound):
    times = [picture_s + i / FPS for i in range(100)]
    path = record(tmp_path / "a", times, [50, 70], sound=sound, container=container)
    measured, clips = extract(path, tmp_path / "out")
    (clip,) = clips
    assert numbers(tmp_path / "out", clip)[0] == but(100, [50, 70])
    assert clip["scores"]["decode.repeated_frames"] == 0
    seen, heard = flashes_and_clicks(tmp_path / "out", clip)
    assert seen == pytest.approx([2.0, 2.8], abs=1e-6)
    assert heard == pytest.approx(seen, abs=1 / FPS)
    end_s = max(times[-1] + 1 / FPS, sound[1])
    covered(measured, clips, end_s - min(picture_s, sound[0]))
    alone = [(a, b) for a, b, why in measured["uncovered"] if why == "no_picture"]
    assert len(alone) == (1 if picture_s or sound[1] > 6 else 0)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_picture_that_is_held_is_told_and_what_moves_is_kept(tmp_path, container):
    times = [*(i / FPS for i in range(75)), *(20 + i / FPS for i in range(75))]
    path = record(tmp_path / "a", times, [28, 45, 103, 120], sound=(0.0, 23.0), container=container)
    measured, clips = extract(path, tmp_path / "out")
    assert [(c["start_s"], c["end_s"], c["fps"]) for c in clips] == [
        (0.0, pytest.approx(3.0), 25.0),
        (pytest.approx(20.0), pytest.approx(23.0), 25.0),
    ]
    assert [(pytest.approx(a), pytest.approx(b), why) for a, b, why in measured["uncovered"]] == [(3.0, 20.0, "held")]
    assert [numbers(tmp_path / "out", c)[0] for c in clips] == [but(75, [28, 45]), but(75, [28, 45], 75)]
    for clip in clips:
        seen, heard = flashes_and_clicks(tmp_path / "out", clip)
        assert len(seen) == 2
        assert heard == pytest.approx(seen, abs=1 / FPS)


def test_slides_give_a_row_and_no_error(tmp_path):
    path = record(tmp_path / "a.mp4", [0, 12, 24, 36])
    measured, clips = extract(path, tmp_path / "out")
    assert clips == []
    assert {why for _, _, why in measured["uncovered"]} == {"held"}


def test_no_clip_goes_across_recordings_that_were_joined(tmp_path):
    """Not even where both show the same, and what the one's sound has over its picture is told."""
    one = record(tmp_path / "1", [i / FPS for i in range(70)], [32], sound=(0, 4.0), container="mpegts")
    two = record(tmp_path / "2", [i / FPS for i in range(80)], [40], first=70, sound=(0, 3.2), container="mpegts")
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    measured, clips = extract(path, tmp_path / "out")
    assert [numbers(tmp_path / "out", c)[0] for c in clips] == [but(70, [32]), but(80, [40], 70)]
    for clip in clips:
        seen, heard = flashes_and_clicks(tmp_path / "out", clip)
        assert len(seen) == 1
        assert heard == pytest.approx(seen, abs=1 / FPS)
    covered(measured, clips, 7.2)


def test_what_a_reader_never_comes_to_has_a_row(tmp_path):
    whole = record(tmp_path / "1", [i / FPS for i in range(60)], container="flv").read_bytes()
    (tmp_path / "joined.flv").write_bytes(whole + whole)
    measured, clips = extract(tmp_path / "joined.flv", tmp_path / "out")
    assert len(clips) == 1
    assert [why for _, _, why in measured["uncovered"]] == ["unread"]


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(("rate", "step"), [(60, 2), (50, 2), (48, 2), (Fraction(60000, 1001), 2), (25, 1)])
def test_motion_is_even(tmp_path, container, rate, step):
    """From any start: Matroska rounds times to milliseconds, which must not make a picture show twice."""
    path = record(tmp_path / "a", [float(i / Fraction(rate)) for i in range(190)], container=container)
    overrides = ("extract.segments.min_s=1", "extract.segments.max_s=2.03", "extract.audio=false")
    _, clips = extract(path, tmp_path / "out", *overrides)
    assert len(clips) >= 2
    for clip in clips:
        assert set(np.diff(numbers(tmp_path / "out", clip)[0])) == {step}
        assert clip["fps"] == pytest.approx(float(rate / step), rel=2e-3)


@pytest.mark.parametrize(
    ("source", "nominal", "rate"),
    [
        ("60", None, "30"), ("50", None, "25"), ("48", None, "24"), ("60000/1001", None, "30000/1001"),
        ("120", None, "30"), ("240", None, "30"), ("24", None, "24"), ("1000/33", None, "1000/33"), ("32", None, "32"),
        ("60", 16, "15"), ("50", 16, "50/3"), ("48", 16, "16"), ("30", 16, "15"), ("32", 16, "16"), ("25", 16, "25"),
        ("24", 16, "24"), ("12", 16, "12"), ("60", 32, "30"), ("50", 32, "25"), ("64", 32, "32"),
    ],
)  # fmt: skip
def test_a_clip_has_an_even_part_of_its_sources_rate(source, nominal, rate):
    assert clip_rate(Fraction(source), CutConfig(fps=nominal)) == Fraction(rate)


def test_held_pictures_are_gaps_longer_than_allowed():
    times = np.array([0.0, 0.04, 0.08, 2.0, 2.04, 9.0, 9.04])
    assert held_pictures(times, 0.04, 9.08, 2.0) == [(2.08, 9.0)]
    assert held_pictures(times, 0.04, 14.0, 2.0) == [(2.08, 9.0), (pytest.approx(9.08), 14.0)]
    assert held_pictures(times, 0.04, 9.08, 2.0, breaks=[2.0]) == [(0.12, 2.0), (2.08, 9.0)]


def test_clips_begin_with_a_picture_and_nothing_is_lost_between_them():
    times = np.arange(0, 8, 0.04)
    spans = [Span(0.0, 3.011), Span(3.011, 6.0)]
    made, rest = on_pictures(spans, [Uncovered(6.0, 8.0, "speech")], times, 0.04, SegmentLimits())
    assert made == [Span(0.0, pytest.approx(3.0)), Span(pytest.approx(3.0), 6.0)]
    assert rest == [Uncovered(6.0, 8.0, "speech")]
    short = [Span(0.0, 2.0), Span(2.0, 4.015)]
    assert on_pictures(short, [], times + 0.015, 0.04, SegmentLimits())[0][0].seconds >= 2.0


def test_a_loud_mix_is_folded_without_clipping_and_a_quiet_one_as_it_is(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)[:, None]
    for name, level in (("loud", 0.9), ("quiet", 0.1)):
        soundfile.write(tmp_path / f"{name}.wav", np.repeat(level * tone, 6, axis=1), RATE, subtype="PCM_16")
        _, clips = extract(tmp_path / f"{name}.wav", tmp_path / name)
        samples, _ = soundfile.read(tmp_path / name / f"{clips[0]['key']}.flac")
        peak = np.abs(samples).max()
        if name == "loud":
            assert peak == pytest.approx(1.0, abs=0.001)
            assert clips[0]["scores"]["audio.clipping_ratio"] == 0
            assert clips[0]["scores"]["audio.turned_down_db"] == pytest.approx(20 * np.log10(0.9 * 2.414), abs=0.1)
        else:
            assert peak == pytest.approx(0.1 * (1 + 2 * 0.7071), abs=0.01)  # BS.775: centre and surround at -3 dB
            assert "audio.turned_down_db" not in clips[0]["scores"]


def test_an_animated_picture_is_a_clip(tmp_path):
    first, *rest = [Image.fromarray(picture(i)) for i in range(60)]
    first.save(tmp_path / "a.webp", save_all=True, append_images=rest, duration=40, quality=90)
    _, clips = extract(tmp_path / "a.webp", tmp_path / "out")
    assert [(c["kind"], c["frames"], c["fps"]) for c in clips] == [("video", 60, 25.0)]
    assert numbers(tmp_path / "out", clips[0])[0] == list(range(60))


def test_the_scratch_holds_files_of_clips_alone(tmp_path):
    _, clips = extract(record(tmp_path / "a.mp4", [i / FPS for i in range(60)]), tmp_path / "out")
    assert {Path(f).name.partition(".")[0] for f in (tmp_path / "out").iterdir()} == {clips[0]["key"]}
