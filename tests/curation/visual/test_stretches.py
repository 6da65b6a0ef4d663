"""A film measured in stretches is, to the bit, the film measured in one pass, or it is said that it is not."""

from dataclasses import fields, replace
from fractions import Fraction

import av
import numpy as np
import pytest

from pipelines.curation.visual.decode_pass import (
    DecodePassConfig,
    StretchMismatch,
    join_stretches,
    measure_stretch,
    plan_stretches,
    run_decode_pass,
)
from pipelines.curation.visual.timeline import Timeline
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render
from skyreels.media.decode import shown_times
from skyreels.media.probe import probe

CONFIG = DecodePassConfig()
FPS = 24


def _written(path, pictures, *, keys=12, options=None, steps=None):
    """H.264 with a key frame every `keys` pictures; picture n stays for `steps[n]` ticks of 1/240 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"threads": "1", "bf": "2", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.time_base = keys, Fraction(1, 240)
        at = 0
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 240)
            at += 10 if steps is None else steps[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def pictures():
    """20 s of shots with cuts, dissolves and fades between them."""
    made = []
    for seed, kind in enumerate(("dissolve", "cut", "fade", "dissolve")):
        film = sample_film(70 + seed, size=(160, 96), fps=FPS, seconds=5.0, shots=3, transition=kind)
        made += list(render(film).frames())
    return made


def _in_stretches(path, shortest_s):
    facts = probe(path)
    planned = plan_stretches(shown_times(path, facts), facts, CONFIG, shortest_s)
    found = [measure_stretch(path, facts, stretch, CONFIG) for stretch in planned]
    return planned, found, facts


def _assert_equal(joined, whole):
    for part in fields(Timeline):
        ours, theirs = getattr(joined, part.name), getattr(whole, part.name)
        if isinstance(theirs, list) or not hasattr(theirs, "__dataclass_fields__"):
            assert ours == theirs, part.name
            continue
        for column in fields(theirs):
            mine, other = getattr(ours, column.name), getattr(theirs, column.name)
            if isinstance(other, np.ndarray):
                assert mine.dtype == other.dtype
                assert np.array_equal(mine, other, equal_nan=other.dtype.kind == "f"), f"{part.name}.{column.name}"
            else:
                assert mine == other, f"{part.name}.{column.name}"


@pytest.mark.parametrize(("shortest_s", "count"), [(1.5, 12), (4.0, 4), (7.0, 2)])
def test_stretches_join_to_what_one_pass_sees(tmp_path, pictures, shortest_s, count):
    path = _written(tmp_path / "film.mp4", pictures)
    planned, found, facts = _in_stretches(path, shortest_s)
    assert len(planned) >= count
    whole = run_decode_pass(path, facts)
    assert len(whole.cuts) >= 3
    assert len(whole.transitions) >= 3
    spans = [(t.start_s, t.end_s) for t in whole.transitions]
    if shortest_s == 1.5:  # a border lies within a transition
        assert any(a < stretch.start_s < b for stretch in planned for a, b in spans)
    _assert_equal(join_stretches(found, planned, facts, CONFIG), whole)


def test_a_film_whose_pictures_come_at_odd_times_is_the_same_too(tmp_path, pictures):
    rng = np.random.default_rng(5)
    steps = rng.choice([4, 8, 10, 10, 13, 300], len(pictures), p=[0.2, 0.2, 0.3, 0.1, 0.19, 0.01]).tolist()
    path = _written(tmp_path / "film.mkv", pictures, steps=steps)
    planned, found, facts = _in_stretches(path, 2.0)
    assert len(planned) >= 4
    _assert_equal(join_stretches(found, planned, facts, CONFIG), run_decode_pass(path, facts))


def test_open_groups_of_pictures_cannot_be_divided_and_that_is_told(tmp_path, pictures):
    """Pictures shown before a key frame and coded after it lean on the group before."""
    path = _written(tmp_path / "film.mp4", pictures, options={"x264-params": "open-gop=1:bframes=3"})
    with pytest.raises(StretchMismatch, match="damaged"):
        _in_stretches(path, 2.0)


def test_damage_is_told_and_not_measured(tmp_path, pictures):
    path = _written(tmp_path / "film.mp4", pictures)
    facts = probe(path)
    planned = plan_stretches(shown_times(path, facts), facts, CONFIG, 4.0)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(2)
    for place in rng.integers(len(data) // 4, len(data) // 2, 300):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StretchMismatch):
        join_stretches([measure_stretch(path, facts, stretch, CONFIG) for stretch in planned], planned, facts, CONFIG)


def test_stretches_that_saw_the_same_frames_differently_are_not_joined(tmp_path, pictures):
    path = _written(tmp_path / "film.mp4", pictures[:240])
    planned, found, facts = _in_stretches(path, 4.0)
    luma = found[1].frames.luma_mean.copy()
    luma[2] += 1
    found[1] = replace(found[1], frames=replace(found[1].frames, luma_mean=luma))
    with pytest.raises(StretchMismatch, match="differ"):
        join_stretches(found, planned, facts, CONFIG)


def test_a_film_that_is_too_short_or_has_no_key_frames_is_not_divided(tmp_path, pictures):
    path = _written(tmp_path / "film.mp4", pictures[:240], keys=1000, options={"sc_threshold": "0"})
    facts = probe(path)
    times = shown_times(path, facts)
    assert plan_stretches(times, facts, CONFIG, 2.0) == []
    path = _written(tmp_path / "keyed.mp4", pictures[:96])
    facts = probe(path)
    assert plan_stretches(shown_times(path, facts), facts, CONFIG, 3.0) == []
