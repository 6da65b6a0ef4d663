"""Stamps that restart, leap and lag: what is shown and heard together in the file stays together."""

import av
import numpy as np
import pytest
import soundfile

from skyreels.media.clock import Stamps, shifts
from skyreels.media.cut import cut_clip
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe
from skyreels.media.sound import decode_audio

FPS, RATE = 25, 48000
CODECS = {"mpegts": ("libx264", "mp2"), "vob": ("mpeg2video", "mp2"), "matroska": ("libx264", "mp2")}


def recording(path, studio, first, count, flashes, *, container="mpegts", sound_s=None, sound_start_s=0.0):
    """Numbered pictures from `first` on, white ones at `flashes` and a click at each of their times."""
    frames = [
        np.full((96, 160, 3), 235, np.uint8) if i in flashes else studio.numbered(first + i) for i in range(count)
    ]
    video_codec, audio_codec = CODECS[container]
    audio = None
    if sound_s != 0:
        seconds = sound_s or count / FPS
        audio = studio.clicks([i / FPS - sound_start_s for i in flashes], seconds, RATE, channels=2)
    options = {"bf": "2"} if video_codec == "libx264" else {}
    return studio.video(
        path, frames, fps=FPS, codec=video_codec, container=container, options=options,
        audio=audio, audio_codec=audio_codec, audio_start_s=sound_start_s,
    )  # fmt: skip


def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def white(path, **options):
    """Times of the white pictures."""
    facts = probe(path)
    return [f.time_s for f in iter_video_frames(path, facts, **options) if f.luma().mean() > 200]


def clicked(path):
    sound = decode_audio(path, probe(path))
    loud = np.flatnonzero(np.abs(sound.samples[0]) > 0.3)
    first = loud[np.insert(np.diff(loud) > RATE // 10, 0, True)]
    return [sound.start_s + n / sound.sample_rate for n in first]


@pytest.mark.parametrize("container", ["mpegts", "vob", "matroska"])
def test_joined_recordings_follow_each_other_each_in_sync(tmp_path, studio, container):
    one = recording(tmp_path / "1", studio, 0, 75, {20, 60}, container=container)
    two = recording(tmp_path / "2", studio, 100, 90, {30, 70}, container=container)
    path = joined(tmp_path / "joined", one, two)
    facts = probe(path)
    times = [frame.time_s for frame in iter_video_frames(path, facts)]
    assert len(times) == 165
    assert min(np.diff(times)) > 0.01
    assert facts.duration_s == pytest.approx(6.6, abs=0.15)
    assert len(facts.clock_breaks_s) == 1
    assert facts.clock_breaks_s[0] == pytest.approx(3.0, abs=0.1)
    assert float(facts.video.steady_rate) == 25
    flashes, clicks = white(path), clicked(path)
    assert len(flashes) == len(clicks) == 4
    assert clicks == pytest.approx(flashes, abs=0.021)


def test_a_span_after_the_join_is_cut_like_any_other(tmp_path, studio):
    one = recording(tmp_path / "1", studio, 0, 75, {20, 60})
    path = joined(tmp_path / "joined.ts", one, recording(tmp_path / "2", studio, 100, 90, {30, 70}))
    facts = probe(path)
    whole = [f.time_s for f in iter_video_frames(path, facts)]
    start_s, end_s = whole[75], whole[75] + 3.0
    report = cut_clip(
        path, facts, start_s=start_s, end_s=end_s, fps=FPS,
        video_path=tmp_path / "c.mp4", audio_path=tmp_path / "c.flac",
    )  # fmt: skip
    assert (report.frames, report.repeated_frames, report.decode_errors) == (75, 0, 0)
    with av.open(str(tmp_path / "c.mp4")) as container:
        grey = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
    numbers = [studio.number_of(g[:96]) for i, g in enumerate(grey) if i not in (30, 70)]
    assert numbers == [100 + i for i in range(75) if i not in (30, 70)]
    samples, rate = soundfile.read(tmp_path / "c.flac", always_2d=True)
    places = studio.click_places(samples.T, [30 / FPS, 70 / FPS], rate)
    assert [n / rate for n in places] == pytest.approx([1.2, 2.8], abs=0.021)


def test_sound_that_runs_on_or_is_missing_does_not_pull_the_next_recording_out_of_sync(tmp_path, studio):
    long = recording(tmp_path / "1", studio, 0, 75, {20}, sound_s=4.2)
    mute = recording(tmp_path / "2", studio, 100, 60, {10}, sound_s=0)
    last = recording(tmp_path / "3", studio, 200, 75, {30})
    path = joined(tmp_path / "joined.ts", long, mute, last)
    flashes, clicks = white(path), clicked(path)
    assert len(flashes) == 3
    assert clicks == pytest.approx([flashes[0], flashes[2]], abs=0.021)
    assert len(probe(path).clock_breaks_s) == 2


def test_a_broadcast_clock_that_leaps_far_is_another_recording(tmp_path, studio):
    one = recording(tmp_path / "1", studio, 0, 75, {20})
    shown = [studio.numbered(100 + i) for i in range(75)]
    later = studio.video(
        tmp_path / "2", shown, container="mpegts", times_s=[7200 + i / FPS for i in range(75)],
        audio=studio.clicks([1.0], 3.0, RATE, channels=2), audio_codec="mp2", audio_start_s=7200.0,
    )  # fmt: skip
    facts = probe(joined(tmp_path / "joined.ts", one, later))
    assert facts.duration_s == pytest.approx(6.0, abs=0.2)
    assert len(facts.clock_breaks_s) == 1


@pytest.mark.parametrize("container", ["mpegts", "matroska", "mp4"])
def test_a_clean_file_has_one_clock(tmp_path, studio, container):
    frames = [studio.numbered(i) for i in range(60)]
    facts = probe(studio.video(tmp_path / "a", frames, container=container, audio=studio.clicks([1], 2.4, RATE)))
    assert (facts.clock_breaks_s, facts.video.clock_shifts, facts.audio.clock_shifts) == ((), (), ())
    assert facts.unread_bytes == 0


def test_pieces_move_as_a_whole():
    def stamps(runs, places):
        track = Stamps()
        for start_s, place in zip(runs, places, strict=True):
            track.add(start_s, start_s + 1.0, start_s, place)
        return track

    video = stamps([0, 1, 2, 0, 1, 2], [0, 2, 4, 6, 8, 10])
    audio = stamps([0.5, 1.5, 2.5, 0.5, 1.5, 2.5], [1, 3, 5, 7, 9, 11])
    (of_video, of_audio), breaks = shifts([video, audio], "mpegts")
    assert of_video == of_audio
    assert [(shift.packet, shift.seconds) for shift in of_video] == [(3, 3.0)]  # neither stream overlaps itself
    assert breaks == (3.0,)
    assert shifts([video, audio], "mp4") == ([(), ()], ())


@pytest.mark.parametrize("container", ["flv", "matroska", "mp4"])
def test_a_recording_that_its_reader_never_comes_to_is_told(tmp_path, studio, container):
    frames = [studio.numbered(i) for i in range(30)]
    whole = studio.video(tmp_path / "a", frames, container=container)
    path = joined(tmp_path / "joined", whole, whole, whole)
    facts = probe(path)
    assert facts.unread_bytes > 0.3 * whole.stat().st_size
    assert facts.unread_bytes % whole.stat().st_size in (0, whole.stat().st_size - 4)
