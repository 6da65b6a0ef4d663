"""Broken copies of small files, by the hundred: each is read, or refused with a reason, and no child is lost."""

import os
import random
import sys
from collections import Counter

import numpy as np
import pytest

from skyreels.media.errors import MediaError
from skyreels.media.sandbox import Sandbox

TARGETS = """
from skyreels.media.cut import cut_clip
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe
from skyreels.media.sound import iter_audio

def read_all(request, scratch):
    path = request["path"]
    found = probe(path)
    if found.video:
        for frame in iter_video_frames(path, found):
            frame.luma()
            frame.bgr(32, 20)
        list(iter_video_frames(path, found, keyframes_only=True, start_s=0.5))
        paths = {"video_path": scratch / "clip.mp4", "audio_path": scratch / "clip.flac"}
        cut_clip(path, found, start_s=0.3, end_s=0.8, fps=16, size=(64, 48), **paths)
    if found.audio:
        for block in iter_audio(path, sample_rate=16000, mono=True):
            assert block.samples.shape[0] == 1
    return {}
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    (folder / "hostile_targets.py").write_text(TARGETS)
    sys.path.insert(0, str(folder))
    with Sandbox() as sandbox:
        yield sandbox
    sys.path.remove(str(folder))


def broken(data, chance):
    """One of: scattered bytes, a damaged header, an early end, a piece copied elsewhere."""
    data = bytearray(data)
    kind = chance.randrange(4)
    if kind == 0:
        for _ in range(chance.choice((1, 5, 50))):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 1:
        for _ in range(chance.choice((1, 3, 10))):
            data[chance.randrange(min(len(data), 800))] = chance.randrange(256)
    elif kind == 2:
        del data[chance.randrange(len(data)) :]
    else:
        start, target, length = chance.randrange(len(data)), chance.randrange(len(data)), chance.randrange(1, 300)
        data[target : target + length] = data[start : start + length]
    return bytes(data)


@pytest.mark.parametrize(
    ("codec", "muxer", "sound"),
    [
        ("libx264", "mp4", "aac"),
        ("libx264", "mpegts", "aac"),
        ("libx264", "flv", "aac"),
        ("libvpx-vp9", "webm", "libopus"),
        ("mpeg4", "avi", "libmp3lame"),
        ("libsvtav1", "matroska", "flac"),
    ],
)
def test_broken_copies_are_read_or_refused(box, studio, tmp_path, codec, muxer, sound):
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 48000)).astype(np.float32)
    frames = [studio.numbered(i) for i in range(25)]
    whole = studio.video(tmp_path / "whole", frames, codec=codec, container=muxer, audio=noise, audio_codec=sound)
    chance = random.Random(f"{codec}-{muxer}")
    outcomes = Counter()
    for _ in range(30):
        (tmp_path / "case").write_bytes(broken(whole.read_bytes(), chance))
        try:
            box.call("hostile_targets:read_all", {"path": str(tmp_path / "case")}, wall_s=30, scratch=tmp_path)
            outcomes["read"] += 1
        except MediaError as error:
            outcomes[error.reason] += 1
            last = error
    assert not {"internal_error", "decoder_crashed", "decode_timeout"} & outcomes.keys(), str(last)
    assert outcomes["read"] > 0
    assert len(outcomes) > 1


def test_making_media_leaves_the_scheduling_of_this_process_alone(studio, tmp_path):
    before = os.sched_getscheduler(0)
    studio.video(tmp_path / "a.mkv", [studio.numbered(i) for i in range(3)], codec="libsvtav1", container="matroska")
    assert os.sched_getscheduler(0) == before
