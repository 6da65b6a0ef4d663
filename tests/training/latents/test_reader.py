"""Exactly the frames and samples that are wanted, against another decoder; and files that cannot be read, by name."""

import io

import av
import numpy as np
import pytest
import soundfile
import torch

from pipelines.dataset.reader import open_dataset, open_video, read_image, read_sound
from pipelines.training.data.windows import RandomWindows
from skyreels.media.errors import MediaError
from skyreels.shards import read_member


def _clip(dataset, key):
    return next(clip for clip in dataset.clips if clip.key == key)


def _bytes(dataset, key, extension):
    return read_member(dataset.storage, _clip(dataset, key).members[extension])


def _decoded(dataset, key):
    with av.open(io.BytesIO(_bytes(dataset, key, "mp4"))) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("key", ["clip", "silent"])
@pytest.mark.parametrize("fps", [8, 16, 24, 25])
@pytest.mark.parametrize("first", [0, 7, 13])
def test_a_window_holds_the_frames_on_screen_at_its_times(dataset, key, fps, first):
    clip = _clip(dataset, key)
    rate = int(clip.fps)
    video = open_video(dataset.storage, clip)
    times = first / rate + np.arange(9) / fps
    wanted = [first + n * rate // fps for n in range(9)]  # whole numbers: no rounding to agree on
    assert video.shown_at(times) == wanted
    pixels = ((video.read(times, 48, 64) + 1) * 127.5).round().to(torch.uint8)
    frames = _decoded(dataset, key)
    assert np.array_equal(pixels.permute(1, 2, 3, 0).numpy(), np.stack([frames[n] for n in wanted]))


def test_the_last_frame_stays_after_the_end(dataset):
    video = open_video(dataset.storage, _clip(dataset, "clip"))
    assert video.shown_at([1.99, 2.0, 2.5]) == [47, 47, 47]


def test_frames_cover_the_size_and_the_middle_is_kept(dataset):
    clip = _clip(dataset, "clip")
    pixels = open_video(dataset.storage, clip).read([0.0], 24, 24)
    whole = torch.from_numpy(_decoded(dataset, "clip")[0]).permute(2, 0, 1).float()[:, :, 8:56]
    halves = whole.reshape(3, 24, 2, 24, 2).mean((2, 4)) / 127.5 - 1
    assert pixels.shape == (3, 1, 24, 24)
    assert (pixels[:, 0] - halves).abs().mean() < 0.02
    assert (pixels[:, 0, :, :12] - halves[..., 12:]).abs().mean() > 0.1


def test_sound_at_its_own_rate_is_the_samples_themselves(dataset):
    samples, rate = soundfile.read(io.BytesIO(_bytes(dataset, "clip", "flac")), dtype="float32")
    heard = read_sound(dataset.storage, _clip(dataset, "clip"), 0.5, 22050, sample_rate=44100, stereo=True)
    assert rate == 44100
    assert np.array_equal(heard.numpy(), samples[22050:44100].T)


def test_sound_at_another_rate_keeps_its_time_and_mono_is_heard_on_both_sides(dataset):
    heard = read_sound(dataset.storage, _clip(dataset, "sound"), 0.7, 44100, sample_rate=44100, stereo=True)
    times = 0.7 + np.arange(44100) / 44100
    assert heard.shape == (2, 44100)
    assert torch.equal(heard[0], heard[1])
    assert np.abs(heard[0].numpy() - 0.3 * np.sin(2 * np.pi * 440 * times)).max() < 0.01


def test_silence_follows_the_end_of_the_sound(dataset):
    heard = read_sound(dataset.storage, _clip(dataset, "clip"), 1.9, 8820, sample_rate=44100, stereo=True)
    assert heard[:, :4410].abs().max() > 0.1
    assert heard[:, 4410:].abs().max() == 0


def test_rows_of_a_dataset(dataset, dataset_folder):
    clip, silent = _clip(dataset, "clip"), _clip(dataset, "silent")
    assert (clip.kind, clip.seconds, clip.has_audio, silent.has_audio) == ("video", 2.0, True, False)
    assert clip.captions["structured"] == "Main subject: a clip"
    assert "structured" not in silent.captions
    assert dataset.fingerprint == open_dataset(str(dataset_folder)).fingerprint
    assert read_image(dataset.storage, _clip(dataset, "picture"), 32, 48).shape == (3, 32, 48)


def test_no_dataset_here(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.parquet does not exist.*jobs/curate\.py"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(("key", "extension"), [("clip", "mp4"), ("clip", "flac"), ("picture", "jpg")])
def test_a_damaged_member_is_named(own_dataset, damage, key, extension):
    shard = damage(own_dataset, key, extension, keep=40)
    broken = open_dataset(str(own_dataset))
    clip = _clip(broken, key)
    read = {
        "mp4": lambda: open_video(broken.storage, clip).read([0.0, 1.0], 32, 32),
        "flac": lambda: read_sound(broken.storage, clip, 0.0, 44100, sample_rate=44100, stereo=True),
        "jpg": lambda: read_image(broken.storage, clip, 32, 32),
    }
    with pytest.raises(MediaError) as caught:
        read[extension]()
    assert str(shard) in caught.value.detail
    assert f"{key}.{extension}" in caught.value.detail
    assert caught.value.remedy


def test_a_cut_off_shard_and_a_missing_one(own_dataset):
    broken = open_dataset(str(own_dataset))
    member = _clip(broken, "silent").members["mp4"]
    shard = own_dataset / member.shard
    shard.write_bytes(shard.read_bytes()[: member.offset + member.size - 10])
    cut = rf"damaged_shard: {shard}: silent\.mp4: .*: {member.size - 10} of {member.size} bytes"
    with pytest.raises(MediaError, match=cut):
        open_video(broken.storage, _clip(broken, "silent"))
    shard.unlink()
    with pytest.raises(MediaError, match=rf"missing_shard: {shard}: clip\.mp4"):
        open_video(broken.storage, _clip(broken, "clip"))


def _windows(dataset, seed=0):
    return RandomWindows(dataset, 32, 32, frames=9, fps=16, sample_rate=44100, stereo=True, seed=seed)


def test_random_windows_are_a_function_of_seed_step_and_slot(dataset):
    one, other = _windows(dataset).pixels(3, 1, 2), _windows(dataset).pixels(3, 1, 2)
    assert one.values.shape == (2, 3, 9, 32, 32)
    assert torch.equal(one.values, other.values)
    assert one.keys == other.keys
    different = [
        _windows(dataset, 1).pixels(3, 1, 2),
        _windows(dataset).pixels(4, 1, 2),
        _windows(dataset).pixels(3, 0, 2),
    ]
    assert not any(torch.equal(one.values, windows.values) for windows in different)
    assert {key for step in range(8) for key in _windows(dataset).pixels(step, 0, 2).keys} == {"clip", "silent"}


def test_random_sounds_come_from_clips_and_sounds(dataset):
    drawn = [_windows(dataset).sounds(step, 0, 2, 8820) for step in range(8)]
    assert {key for windows in drawn for key in windows.keys} == {"clip", "sound"}
    assert all(windows.values.shape == (2, 2, 8820) and windows.values.abs().max() > 0.1 for windows in drawn)
    with pytest.raises(ValueError, match="no clip with sound of the length"):
        _windows(dataset).sounds(0, 0, 1, 441000)


def test_an_unreadable_clip_is_replaced_and_named(own_dataset, damage):
    damage(own_dataset, "clip", "mp4", keep=40)
    drawn = [_windows(open_dataset(str(own_dataset))).pixels(step, 0, 2) for step in range(4)]
    assert {key for windows in drawn for key in windows.keys} == {"silent"}
    assert any("clip.mp4" in words for windows in drawn for words in windows.skipped)
