import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from pipelines.curation.records import Rejection
from pipelines.curation.report import choose_previews, make_preview
from pipelines.curation.report.previews import MAX_BYTES
from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_flac, write_video
from skyreels.media.probe import probe
from skyreels.media.sound import decode_audio

RATE = 44_100


def tone(seconds: float) -> np.ndarray:
    """(2, N): a 440 Hz tone in both channels that starts after one second."""
    t = np.arange(round(seconds * RATE)) / RATE
    return np.tile(np.where(t >= 1, 0.5 * np.sin(2 * np.pi * 440 * t), 0), (2, 1)).astype(np.float32)


def flac_bytes(folder, samples: np.ndarray) -> bytes:
    write_flac(folder / "sound.flac", samples, RATE)
    return (folder / "sound.flac").read_bytes()


def mp4_bytes(folder, pictures, fps: float) -> bytes:
    write_video(folder / "picture.mp4", pictures, fps, crf=12, preset="ultrafast")
    return (folder / "picture.mp4").read_bytes()


def test_a_video_preview_plays_with_its_sound_in_time(tmp_path):
    """The picture turns from red to blue when the tone starts, at one second."""
    pictures = [np.full((360, 640, 3), (200, 20, 20) if i < 24 else (20, 20, 200), np.uint8) for i in range(24 * 6)]
    files = {"mp4": mp4_bytes(tmp_path, pictures, 24), "flac": flac_bytes(tmp_path, tone(6))}
    preview = make_preview("k", files)
    assert (preview.media_type, preview.seconds) == ("video/mp4", pytest.approx(4, abs=0.1))
    assert max(preview.width, preview.height) <= 240
    assert preview.width / preview.height == pytest.approx(16 / 9, rel=0.02)
    assert preview.size <= MAX_BYTES
    path = tmp_path / "preview.mp4"
    path.write_bytes(preview.data)
    facts = probe(path)
    assert facts.video is not None
    assert facts.video.codec == "h264"
    assert facts.audio is not None
    assert facts.audio.codec == "aac"
    colours = [(frame.time_s, frame.rgb(2, 2).mean(axis=(0, 1))) for frame in iter_video_frames(path, facts)]
    blue_s = next(time_s for time_s, rgb in colours if rgb[2] > rgb[0])
    sound = decode_audio(path)
    loud_s = np.argmax(np.abs(sound.samples[0]) > 0.1) / sound.sample_rate
    assert blue_s == pytest.approx(1, abs=0.1)
    assert loud_s == pytest.approx(1, abs=0.05)
    poster = np.asarray(Image.open(io.BytesIO(preview.poster)))
    assert poster[..., 2].mean() > poster[..., 0].mean()


def test_noise_is_squeezed_until_it_fits(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 240, 320, 3), np.uint8)
    preview = make_preview("k", {"mp4": mp4_bytes(tmp_path, pictures, 15)})
    assert 0 < preview.size <= MAX_BYTES
    assert preview.seconds > 0.5


def test_a_clip_smaller_than_a_preview_stays_as_small(tmp_path):
    preview = make_preview("k", {"mp4": mp4_bytes(tmp_path, np.zeros((8, 48, 64, 3), np.uint8), 8)})
    assert (preview.width, preview.height, preview.seconds) == (64, 48, 1.0)


def test_a_sound_preview_has_its_shape_and_plays(tmp_path):
    preview = make_preview("k", {"flac": flac_bytes(tmp_path, tone(6))})
    assert preview.media_type == "audio/mpeg"
    assert preview.size <= MAX_BYTES
    samples, rate = soundfile.read(io.BytesIO(preview.data))
    assert len(samples) / rate == pytest.approx(4, abs=0.2)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(440, abs=2)
    quiet, loud = preview.peaks[:19], preview.peaks[21:]
    assert max(quiet) < 0.01
    assert min(loud) == pytest.approx(0.5, abs=0.05)


def test_an_image_preview_is_a_small_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    preview = make_preview("k", {"jpg": buffer.getvalue()})
    assert preview.size <= MAX_BYTES
    assert Image.open(io.BytesIO(preview.data)).size == (preview.width, preview.height) == (480, 270)


def test_a_clip_without_media_is_named():
    with pytest.raises(ValueError, match="clip k has no mp4, flac or jpg"):
        make_preview("k", {"txt": b""})


def pool(count: int) -> pa.Table:
    """Clips in three kinds; every tenth was not cut."""
    rows = [
        {
            "key": f"{i:016x}_{0:05d}",
            "kind": ("video", "video", "audio", "image")[i % 4],
            "width": (1280, 720)[i % 2],
            "height": 720,
            "start_s": 0.0,
            "end_s": 0.0 if i % 4 == 3 else 3.0 + i % 9,
            "stage": "gate" if i % 10 == 0 else None,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows)


def decide(table: pa.Table) -> dict[str, Rejection | None]:
    keys = table.column("key").to_pylist()
    reasons = (None, None, ("filter", "common"), ("filter", "common"), ("takedown", "gone"))
    made = {key: reasons[i % 5] for i, key in enumerate(keys)}
    made[keys[3]] = ("filter", "rare")
    decisions = {k: r and Rejection(stage=r[0], reason=r[1], remedy="-") for k, r in made.items()}
    decisions[keys[6]] = Rejection(stage="dedup", reason="exact", remedy="-", detail=f"same bytes as {keys[195]}")
    return decisions


def test_previews_show_every_reason_and_kind_but_nothing_uncut_or_taken_down():
    table = pool(200)
    decisions = decide(table)
    keys = choose_previews(table, decisions, limit_per_group=4, limit=20)
    rows = {row["key"]: row for row in table.to_pylist()}
    assert len(keys) == len(set(keys)) <= 20
    assert all(rows[key]["stage"] is None for key in keys)
    groups = Counter(why.reason if (why := decisions[key]) else "kept" for key in keys)
    assert groups.keys() == {"kept", "common", "rare", "exact"}
    assert groups["common"] <= 4
    assert groups["kept"] >= 20 // 3
    assert {rows[key]["kind"] for key in keys if decisions[key] is None} == {"video", "audio", "image"}


def test_a_duplicate_brings_what_it_repeats():
    table = pool(200)
    decisions = decide(table)
    keys = table.column("key").to_pylist()
    chosen = choose_previews(table, decisions, limit_per_group=4, limit=20)
    assert keys[6] in chosen
    assert keys[195] in chosen


def test_the_choice_does_not_depend_on_the_order_of_rows():
    table = pool(100)
    decisions = decide(pool(200))
    shuffled = table.take(np.random.default_rng(1).permutation(100))
    assert choose_previews(shuffled, decisions, 3) == choose_previews(table, decisions, 3)
