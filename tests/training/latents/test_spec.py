"""Which samples a clip gives: the bucket it fills, windows by key, and why not."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import load_preset
from model.shapes import VideoCodecSpec
from pipelines.dataset.reader import Clip
from pipelines.training.curriculum.resolve import load_stage
from pipelines.training.latents.references import other_times
from pipelines.training.latents.spec import Bucket, LatentSpec, Misfit, clip_shape, place, sides, window_seconds

CODEC = VideoCodecSpec(16)
CLIP = Clip("k", "video", 1280, 720, 24.0, 120, 5.0, True, {"short": "a clip"}, {})


def _spec(**settings):
    return LatentSpec(**{"sizes": (256, 480), "seconds": (2.0, 5.0), **settings})


def _bucket(clip, spec):
    placed = place(clip, spec, CODEC)
    assert not isinstance(placed, Misfit), placed
    return placed[0].bucket


def test_five_seconds_fill_the_paper_s_81_frames():
    bucket = _bucket(CLIP, _spec(sizes=(480,), references=()))
    shape = clip_shape(bucket, _spec(), CODEC, None)
    assert bucket.name == "video-480p-16x9-5s"
    assert (shape.frames, shape.height, shape.width) == (81, 480, 848)
    assert _bucket(dataclasses.replace(CLIP, seconds=4.99), _spec()).seconds == 2.0


@pytest.mark.parametrize("stage", ["video-6", "sft-1"])
def test_clips_leave_room_for_references(stage):
    """Clips of 2 to 15 s at the paper's lengths and references of 3 s: half of those that are long enough leave room,
    the others keep their length."""
    spec, random = load_stage(stage, load_preset("v4")).latents, np.random.default_rng(0)
    roomy = long_enough = longest = placed_in_all = 0
    for number in range(2000):
        seconds = round(float(random.uniform(2, 15)) * 24) / 24
        size = {"width": 1920, "height": 1080, "frames": round(seconds * 24), "captions": {"structured": "a clip"}}
        clip = dataclasses.replace(CLIP, key=f"c{number}", seconds=seconds, **size)
        placed = place(clip, spec, CODEC)
        if isinstance(placed, Misfit):
            continue
        (one,) = placed
        shape = clip_shape(one.bucket, spec, CODEC, None)
        assert 0 <= one.start_s <= max(0, seconds - shape.seconds) + 1 / 24
        spans = other_times(clip, one.start_s, shape.seconds)
        placed_in_all += 1
        roomy += bool(spans) and spans[0][1] - spans[0][0] >= spec.reference_seconds
        long_enough += seconds >= window_seconds(min(spec.seconds), spec, CODEC) + spec.reference_seconds + 1 / 16
        longest += one.bucket.seconds == max(s for s in spec.seconds if s <= seconds)
    assert 0.4 * long_enough < roomy < 0.65 * long_enough
    assert roomy > 0.2 * placed_in_all
    assert longest > 0.4 * placed_in_all


@pytest.mark.parametrize("number", range(20))
def test_a_single_window_lies_beside_its_room(number):
    clip = dataclasses.replace(CLIP, key=f"k{number}")
    (one,) = place(clip, _spec(seconds=(2.0,), reference_seconds=2.0), CODEC)
    assert max(one.start_s, 5.0 - one.start_s - 2.0625) >= 2.0


@pytest.mark.parametrize(
    ("size", "aspect"), [((1280, 720), "16x9"), ((640, 480), "4x3"), ((500, 510), "1x1"), ((720, 1280), "9x16")]
)
def test_the_nearest_aspect(size, aspect):
    clip = dataclasses.replace(CLIP, width=size[0], height=size[1])
    assert _bucket(clip, _spec(sizes=(256,))).aspect == aspect


def test_only_sizes_that_the_clip_fills_are_drawn():
    clips = [dataclasses.replace(CLIP, key=f"k{number}") for number in range(40)]
    assert {_bucket(clip, _spec(sizes=(256, 480, 1080))).size for clip in clips} == {256, 480}
    assert [_bucket(clip, _spec()) for clip in clips] == [_bucket(clip, _spec()) for clip in clips]


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({"width": 320, "height": 180}, {}, "too_small"),
        ({"seconds": 1.9}, {}, "too_short"),
        ({"fps": 10.0}, {}, "too_slow"),
        ({"fps": 20.0}, {"refined": {"time_factor": 2, "space_factor": 1}}, "too_slow"),
        ({"width": 800, "height": 480}, {"sizes": (480,), "refined": {"space_factor": 2}}, "too_small"),
        ({}, {"captions": ("long",)}, "no_caption"),
        ({"kind": "pair"}, {}, "nothing_edited"),
    ],
)
def test_why_a_clip_is_in_no_bucket(change, settings, reason):
    misfit = place(dataclasses.replace(CLIP, **change), _spec(**settings), CODEC)
    assert isinstance(misfit, Misfit)
    assert misfit.reason == reason
    assert misfit.remedy


@given(
    seconds=st.floats(2.1, 60), fps=st.sampled_from([12.0, 16.0, 24.0, 29.97, 60.0]), windows=st.integers(1, 5),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_windows_lie_apart_inside_the_clip_and_start_on_a_frame(seconds, fps, windows, seed):
    clip = dataclasses.replace(CLIP, fps=fps, frames=int(seconds * fps), seconds=int(seconds * fps) / fps)
    spec = _spec(seconds=(2.0,), windows=windows, seed=seed)
    placed = place(clip, spec, CODEC)
    if isinstance(placed, Misfit):
        assert clip.seconds < 2.0
        return
    assert len(placed) == max(1, min(windows, int(clip.seconds / 2.0625)))
    ends = [0.0]
    for sample in placed:
        frame = sample.start_s * fps
        assert abs(frame - round(frame)) < 1e-6
        assert ends[-1] - 1 / fps < sample.start_s
        ends.append(sample.start_s + 2.0625)
    assert ends[-1] <= max(clip.seconds, 2.0625) + 1 / fps
    assert len({sample.key for sample in placed}) == len(placed)


def test_a_pair_s_window_shows_the_edit():
    spec = _spec(seconds=(1.0,))
    for number in range(30):
        pair = dataclasses.replace(CLIP, key=f"p{number}", kind="pair", edited=(3.5, 4.2), captions={})
        (sample,) = place(pair, spec, CODEC)
        shown = min(4.2, sample.start_s + 1.0625) - max(3.5, sample.start_s)
        assert shown > 0.45
        assert 0 <= sample.start_s <= 5 - 1.0625 + 1 / 24


def test_frames_become_pictures_of_their_own():
    spec = _spec(frames_as_images=3, kinds=("image", "video"))
    whole, *frames = place(CLIP, spec, CODEC)
    assert whole.key == "k"
    assert [sample.key for sample in frames] == ["k-i0", "k-i1", "k-i2"]
    assert {sample.bucket.kind for sample in frames} == {"image"}
    starts = [sample.start_s for sample in frames]
    assert all(number * 5 / 3 - 0.1 <= start <= (number + 1) * 5 / 3 for number, start in enumerate(starts))
    assert len(place(CLIP, _spec(frames_as_images=3, kinds=("image",)), CODEC)) == 3
    assert place(CLIP, _spec(frames_as_images=3, kinds=("audio",)), CODEC) == []


@pytest.mark.parametrize("kind", ["image", "video", "audio", "pair"])
@pytest.mark.parametrize("aspect", ["16x9", "9x16", "1x1"])
def test_a_bucket_is_told_by_its_name(kind, aspect):
    seconds = 0.0 if kind == "image" else 2.5
    size = 0 if kind == "audio" else 480
    shape = sides(480, {"16x9": 16 / 9, "9x16": 9 / 16, "1x1": 1.0}[aspect], 16) if size else (0, 0)
    bucket = Bucket(kind, *shape, size, aspect if size else "", seconds)
    assert Bucket.parse(bucket.name, _spec()) == bucket
