"""Fields and transparency are gone before anybody sees a picture."""

import av
import numpy as np
import pytest

from skyreels.media.cut import cut_clip
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe

INTERLACED = {
    "libx264": {"flags": "+ilme+ildct", "x264-params": "tff=1", "preset": "ultrafast", "crf": "8"},
    "mpeg2video": {"flags": "+ilme+ildct", "q:v": "2", "top": "1", "qmin": "2", "qmax": "2"},
}


def moving(count, step=6, height=144, width=176):
    """A picture of upright bars that drifts to the left."""
    bars = np.kron(np.random.default_rng(3).integers(40, 216, (height // 16, 80)), np.ones((16, 16))).astype(np.uint8)
    return [np.repeat(bars[:, step * i : step * i + width, None], 3, axis=2) for i in range(count)]


def woven(pictures):
    """Two pictures a frame: the even lines of the first and the odd lines of the second."""
    frames = []
    for even, odd in zip(pictures[::2], pictures[1::2], strict=True):
        frame = even.copy()
        frame[1::2] = odd[1::2]
        frames.append(frame)
    return frames


def combed(grey):
    """Share of pixels that differ from both lines beside them in the same direction."""
    lines = grey.astype(float)
    return float((((lines[1:-1] - lines[:-2]) * (lines[1:-1] - lines[2:])) > 300).mean())


@pytest.mark.parametrize(("codec", "container"), [("libx264", "matroska"), ("mpeg2video", "vob")])
def test_interlaced_pictures_are_made_whole(tmp_path, studio, codec, container):
    frames = woven(moving(60))
    path = studio.video(tmp_path / "i", frames, codec=codec, container=container, options=INTERLACED[codec])
    with av.open(str(path), format={"vob": "mpeg"}.get(container, container)) as raw:
        stored = [f.to_ndarray(format="gray") for f in raw.decode(video=0)]
    assert np.mean([combed(g) for g in stored]) > 0.1
    facts = probe(path)
    assert facts.video.interlaced
    shown = list(iter_video_frames(path, facts))
    assert len(shown) == len(stored) == 30
    assert np.mean([combed(f.luma()) for f in shown]) < 0.01
    assert np.diff([f.time_s for f in shown]) == pytest.approx(0.04, abs=0.002)
    cut_clip(path, facts, start_s=facts.video.start_s, end_s=facts.video.start_s + 1.2, fps=25, crf=10,
             video_path=tmp_path / "c.mp4", audio_path=None)  # fmt: skip
    with av.open(str(tmp_path / "c.mp4")) as clip:
        assert np.mean([combed(f.to_ndarray(format="gray")) for f in clip.decode(video=0)]) < 0.01


def test_whole_pictures_pass_untouched(tmp_path, studio):
    path = studio.video(tmp_path / "p.mkv", moving(20))
    facts = probe(path)
    with av.open(str(path)) as raw:
        stored = [f.to_ndarray(format="yuv420p")[:144] for f in raw.decode(video=0)]
    assert not facts.video.interlaced
    for frame, plane in zip(iter_video_frames(path, facts), stored, strict=True):
        assert np.array_equal(np.asarray(frame.luma()), plane)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "container"),
    [
        ("png", "rgba", "mov"),
        ("qtrle", "argb", "mov"),
        ("ffv1", "yuva420p", "matroska"),
        ("ffv1", "yuva444p10le", "matroska"),
        ("prores_ks", "yuva444p10le", "mov"),
        ("libvpx-vp9", "yuva420p", "webm"),
        ("libvpx", "yuva420p", "webm"),
    ],
)
def test_what_lies_behind_transparent_pixels_is_black(tmp_path, studio, codec, pix_fmt, container):
    noise = np.random.default_rng(1)
    frames = []
    for _ in range(6):
        picture = noise.integers(0, 256, (96, 160, 4), dtype=np.uint8)
        picture[..., 3] = 0
        picture[24:72, 40:120] = (200, 200, 200, 255)
        picture[24:72, 120:140] = (200, 200, 200, 128)
        frames.append(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pix_fmt))
    options = {"b:v": "4M", "auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
    path = studio.video(tmp_path / "a", frames, codec=codec, pix_fmt=pix_fmt, container=container, options=options)
    facts = probe(path)
    assert facts.video.alpha
    shown = list(iter_video_frames(path, facts))
    assert len(shown) == 6
    for frame in shown:
        rgb = frame.rgb().astype(int)
        assert rgb[:16].max() <= 12
        assert rgb[34:62, 50:110].mean() == pytest.approx(200, abs=6)
        assert rgb[34:62, 124:136].mean() == pytest.approx(100, abs=8)
        assert np.asarray(frame.luma())[:16].max() <= 28
