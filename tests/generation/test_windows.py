"""Clips that are longer than a model makes at once: the same as extending by hand, and whole in picture and sound."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from jobs import generate
from model.generation.components import read_spec
from model.generator import Generator
from model.sampling.sampler import Cancelled
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.request import GenerationRequest, RequestError
from pipelines.generation.windows import decode_windows, make_windows, refine_windows, sample_windows, windows_of
from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_video
from skyreels.media.probe import probe
from tests.generation.conftest import RATE


@pytest.fixture(scope="module")
def generator(model_folder):
    return Generator.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def planned(model_folder):
    """planned(files, **fields): the windows of a request."""
    with MediaReader() as reader:

        def plan(files=None, **fields):
            request = GenerationRequest(**{"prompt": "a red ball", "seed": 3, **fields})
            return windows_of(request, prepare(request, files or {}, read_spec(model_folder), reader))

        yield plan


@pytest.mark.parametrize(
    ("seconds", "window", "overlap", "spans"),
    [
        (2.0, 0.8, 0.25, [(0, 13), (8, 21), (16, 29), (24, 33)]),  # 16 fps, four frames to a latent and one before them
        (1.0, 0.8, None, [(0, 13), (8, 17)]),
        (1.0, 1.0, 0.25, None),
        (1.0, 3.0, 0.25, None),
        (0.6, 0.5, 0.25, None),  # both are nine frames
        (1.0, 0.5, 0.01, [(0, 9), (8, 17)]),  # one frame, of the codec's first latent
    ],
)
def test_windows_fill_the_clip_and_whole_latents(planned, seconds, window, overlap, spans):
    windows = planned(seconds=seconds, window=window, overlap=overlap)
    found = None if windows is None else [(span.start, span.stop) for span in windows.spans]
    assert found == spans
    if windows is not None:
        assert windows.clip.frames == spans[-1][1]
        assert all(windows.clip.video.whole_frames(stop - start) == stop - start for start, stop in spans)


def test_it_is_the_clip_that_extending_by_hand_makes(generator, planned):
    windows = planned(seconds=1.5, window=0.8, overlap=0.25)
    made = decode_windows(generator, windows, sample_windows(generator, windows))
    frames = np.stack(list(made.frames))

    seeds = (3 + number * 2**32 for number in itertools.count())
    again = generator("a red ball", seconds=0.8, generator=torch.Generator().manual_seed(next(seeds)))
    by_hand, heard = again.frames, [(0, again.audio)]
    while len(by_hand) < windows.frames:
        start = len(by_hand) - 5
        length = min(13, windows.frames - start) / 16
        source = torch.Generator().manual_seed(next(seeds))
        again = generator("a red ball", seconds=length, video=by_hand[-5:], generator=source)
        by_hand = np.concatenate([by_hand, again.frames[5:]])
        heard.append((start, again.audio))
    assert len(heard) == 3
    assert np.array_equal(frames, by_hand)

    sound = made.audio.numpy()
    assert sound.shape == (2, round(len(frames) / 16 * RATE))
    for number, (start, piece) in enumerate(heard):  # outside of what two windows share, each is heard as it is
        from_, first = (round((start + shared) / 16 * RATE) for shared in (5 * (number > 0), 0))
        to = round((heard[number + 1][0] if number + 1 < len(heard) else len(frames)) / 16 * RATE)
        own = piece.numpy()[:, from_ - first : to - first]
        assert np.array_equal(sound[:, from_ : from_ + own.shape[1]], own)
    start, stop = (round(frame / 16 * RATE) for frame in (8, 13))
    angle = np.linspace(0, np.pi / 2, stop - start)
    mixed = heard[0][1].numpy()[:, start:stop] * np.cos(angle) + heard[1][1].numpy()[:, : stop - start] * np.sin(angle)
    np.testing.assert_allclose(sound[:, start:stop], mixed.clip(-1, 1), atol=1e-5)


def test_given_sound_is_kept_whole_and_each_window_hears_its_part(generator, planned, media):
    windows = planned({"tone": media / "voice.flac"}, seconds=1.0, window=0.6, audio="tone")
    given = windows.first.media.audio
    second = windows.call(1, np.zeros((5, 32, 32, 3), np.uint8))
    start = round(windows.spans[1].start / 16 * RATE)
    assert torch.equal(second.media.audio, given[:, start : start + second.clip.audio_samples])
    made = decode_windows(generator, windows, sample_windows(generator, windows))
    assert made.audio.shape[1] == round(windows.frames / 16 * RATE)
    assert torch.equal(made.audio[:, : given.shape[1]], given.float())
    assert not made.audio[:, given.shape[1] :].any()


def test_a_first_image_begins_the_clip_and_silence_is_kept(generator, planned, media):
    windows = planned({"a": media / "hole.png"}, seconds=0.9, window=0.5, image="a", sound=False)
    made = decode_windows(generator, windows, sample_windows(generator, windows))
    frames = np.stack(list(made.frames))
    assert (len(frames), made.audio) == (windows.frames, None)
    plain = planned(seconds=0.9, window=0.5, sound=False)
    other = np.stack(list(decode_windows(generator, plain, sample_windows(generator, plain)).frames))
    assert not np.array_equal(frames[0], other[0])
    assert windows.call(1, frames[:5]).media.image is None


def test_progress_grows_over_all_windows_and_a_stop_stops_them(generator, planned):
    windows, told = planned(seconds=1.5, window=0.8), []
    sample_windows(generator, windows, lambda progress: told.append((progress.stage, progress.progress)))
    assert [done for _, done in told] == pytest.approx([(number + 1) / len(told) for number in range(len(told))])
    assert list(dict.fromkeys(stage for stage, _ in told)) == [f"window {number} of 3" for number in (1, 2, 3)]

    def stop(progress):
        if progress.stage == "window 2 of 3":
            raise Cancelled

    with pytest.raises(Cancelled):
        sample_windows(generator, windows, stop)


@pytest.fixture(scope="module")
def films(media, tmp_path_factory):
    """`short` of nine frames, `long` of nineteen: more than two windows of nine hold."""
    path = tmp_path_factory.mktemp("films") / "long.mp4"
    blocks = np.random.default_rng(2).integers(0, 256, (19, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(path, blocks, 16, crf=1)
    return {"short": media / "clip.mp4", "long": path, "voice": media / "voice.flac"}


def pixels(path):
    return np.stack([frame.rgb() for frame in iter_video_frames(path, probe(path))])


def test_a_short_video_goes_on_as_by_hand(generator, planned, films):
    windows = planned(films, video="short", seconds=1.5, window=0.8, overlap=0.25)
    made = decode_windows(generator, windows, sample_windows(generator, windows))
    frames = np.stack(list(made.frames))
    by_hand = pixels(films["short"])
    starts, seeds = [0], (3 + number * 2**32 for number in itertools.count())
    shown = by_hand  # the first window keeps the whole video, a later one five frames
    while len(by_hand) < windows.frames:
        start = len(by_hand) - len(shown)
        source = torch.Generator().manual_seed(next(seeds))
        length = min(13, windows.frames - start) / 16
        again = generator("a red ball", seconds=length, video=shown, generator=source)
        by_hand = np.concatenate([by_hand[:start], again.frames[: len(shown)], again.frames[len(shown) :]])
        starts.append(start)
        shown = by_hand[-5:]
    assert len(frames) == windows.frames == 25
    assert np.array_equal(frames, by_hand)
    assert np.array_equal(frames[:9], pixels(films["short"])), "what was given is shown as it was"
    assert made.audio.shape == (2, round(25 / 16 * RATE))


def test_a_video_longer_than_a_window_is_shown_whole_and_heard_all_along(generator, planned, films):
    windows = planned(films, video="long", seconds=2.0, window=0.5, overlap=0.25)
    assert windows.given == 17, "whole latents, the last of the video's"
    assert [windows.pictures(number) for number in range(4)] == [False, False, False, True]
    made = decode_windows(generator, windows, sample_windows(generator, windows))
    frames, given = np.stack(list(made.frames)), pixels(films["long"])
    whole = generator("a red ball", seconds=2.0, video=given, generator=torch.Generator().manual_seed(3))
    assert np.array_equal(frames[:17], whole.frames[:17]), "as one extension at once begins"
    assert frames.shape == whole.frames.shape
    sounding = generator(
        "a red ball", video=given[2:11], video_use="add_sound", generator=torch.Generator().manual_seed(3)
    )
    until = round(4 / 16 * RATE)  # where the next window begins to be heard
    assert np.array_equal(made.audio[:, :until], sounding.audio[:, :until])
    assert made.audio.shape == whole.audio.shape
    assert made.audio[:, until:].abs().max() > 0


def test_windows_that_would_only_show_what_is_given_make_nothing(generator, planned, films):
    asked = {"video": "long", "seconds": 2.0, "window": 0.5, "overlap": 0.25}
    for beside in ({"sound": False}, {"audio": "voice"}):
        windows = planned(films, **asked, **beside)
        assert windows.working == [3, 4, 5, 6]
        clip = decode_windows(generator, windows, sample_windows(generator, windows))
        assert np.stack(list(clip.frames)).shape == (33, 32, 32, 3)
    with pytest.raises(RequestError, match=r"the video has 17 frames .* the whole is to have 17"):
        planned(films, **{**asked, "seconds": 1.0})


def steps_between(frames):
    """How much each frame differs from the one before."""
    return np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))


def test_refined_windows_begin_as_one_and_meet_as_smoothly_as_a_clip_made_at_once(generator, planned):
    windows = planned(seconds=1.5, window=0.8, overlap=0.25, refine=True)
    base = sample_windows(generator, windows)
    made = decode_windows(generator, windows, refine_windows(generator, windows, base))
    frames = np.stack(list(made.frames))
    assert frames.shape == (49, 64, 64, 3)
    assert (made.clip.fps, made.audio.shape[1]) == (32, made.clip.audio_samples)
    noise = torch.Generator().manual_seed(3)
    first = generator("a red ball", seconds=0.8, refine=True, generator=noise)
    assert np.array_equal(frames[:25], first.frames)
    whole = generator("a red ball", seconds=1.5, refine=True, generator=torch.Generator().manual_seed(3)).frames
    seams = [2 * window.start + 9 - 1 for window in windows.spans[1:]]  # from the last kept frame to the first new one
    assert (steps_between(frames)[seams] <= 1.1 * steps_between(whole).max()).all()


def test_what_was_given_is_enlarged_in_a_refined_clip_as_in_one_made_at_once(generator, planned, films):
    windows = planned(films, video="long", seconds=2.0, window=0.8, overlap=0.25, refine=True)
    frames = np.stack(list(decode_windows(generator, windows, make_windows(generator, windows)).frames))
    noise = torch.Generator().manual_seed(3)
    whole = generator("a red ball", seconds=2.0, video=pixels(films["long"]), refine=True, generator=noise).frames
    assert frames.shape == whole.shape == (65, 64, 64, 3)
    assert np.array_equal(frames[:33], whole[:33])


def test_progress_of_both_stages_grows_to_the_end_and_a_stop_stops_either(generator, planned):
    windows, told = planned(seconds=1.5, window=0.8, refine=True), []
    make_windows(generator, windows, lambda progress: told.append((progress.stage, progress.progress)))
    assert len(told) == 3 * 2 + 3 * 2
    assert [done for _, done in told] == pytest.approx([(number + 1) / 12 for number in range(12)])
    assert told[-1][0] == "refined window 3 of 3"
    heard = []

    def stop(progress):
        heard.append(progress.stage)
        if progress.stage == "refined window 2 of 3":
            raise Cancelled

    with pytest.raises(Cancelled):
        make_windows(generator, windows, stop)
    assert heard.count("refined window 2 of 3") == 1


def test_windows_of_clips_whose_seeds_are_neighbours_share_no_noise(planned):
    windows = planned(seconds=2.0, window=0.5)
    tail = np.zeros((windows.overlap, 32, 32, 3), np.uint8)
    seeds = {
        dataclasses.replace(windows, first=dataclasses.replace(windows.first, seed=3 + clip)).call(number, tail).seed
        for clip in range(8)
        for number in range(len(windows.spans))
    }
    assert len(seeds) == 8 * len(windows.spans)


SHOTS = [
    {"prompt": "a red ball", "seconds": 0.5},
    {"prompt": "a dog", "seconds": 0.4},
    {"prompt": "rain", "seconds": 0.4},
]


def test_each_window_is_told_of_the_shots_that_it_shows(generator, planned):
    windows = planned(prompt=SHOTS, window=0.8, overlap=0.25)
    assert [(span.start, span.stop) for span in windows.spans] == [(0, 13), (8, 21)]
    told = [windows.call(number, np.zeros((5, 32, 32, 3), np.uint8)).prompt for number in range(2)]
    assert told == [
        "Shot 1 (0.00-0.50 s): a red ball\nShot 2 (0.50-0.81 s): a dog",
        "Shot 1 (0.00-0.40 s): a dog\nShot 2 (0.40-0.81 s): rain",
    ]
    made = sample_windows(generator, windows)
    frames = np.stack(list(decode_windows(generator, windows, made).frames))
    by_hand = generator(told[0], seconds=0.8, generator=torch.Generator().manual_seed(3)).frames
    source = torch.Generator().manual_seed(3 + 2**32)
    after = generator(told[1], seconds=13 / 16, video=by_hand[-5:], generator=source).frames
    assert np.array_equal(frames, np.concatenate([by_hand, after[5:]]))


def test_a_window_is_shown_the_references_that_its_shots_name(generator, planned, media):
    shots = [{"prompt": "a ball like @one", "seconds": 0.7}, {"prompt": "the sea", "seconds": 0.6}]
    windows = planned(
        {"a": media / "hole.png"}, prompt=shots, window=0.5, overlap=0.1, references={"@one": ["a"]}, sound=False,
        reference_guidance_scale={"@one": 2.0},
    )  # fmt: skip
    calls = [windows.call(number, np.zeros((1, 32, 32, 3), np.uint8)) for number in range(len(windows.spans))]
    shown = [([reference.tag for reference in call.references], call.scales.reference) for call in calls]
    assert shown[0] == (["@one"], {"@one": 2.0})
    assert shown[-1] == ([], {})
    assert len(list(decode_windows(generator, windows, sample_windows(generator, windows)).frames)) == windows.frames


REFUSED = {
    "no length": ({"window": 0.5}, "window"),
    "no window": ({"seconds": 1.0, "overlap": 0.2}, "overlap"),
    "all of it": ({"seconds": 1.0, "window": 0.5, "overlap": 0.5}, "overlap"),
    "sound alone": ({"seconds": 1.0, "window": 0.5, "picture": False}, "window"),
    "an edit": ({"seconds": 1.0, "window": 0.5, "video": "v", "video_use": "edit"}, "window"),
    "what leads up": ({"seconds": 1.0, "window": 0.5, "video": "v", "video_use": "lead_up"}, "window"),
    "removal": ({"seconds": 1.0, "window": 0.5, "video": "v", "remove": ("text",)}, "window"),
    "keyframes": ({"seconds": 1.0, "window": 0.5, "keyframes": [{"seconds": 0.1, "image": "v"}]}, "window"),
    "a last frame": ({"seconds": 1.0, "window": 0.5, "last_image": "v"}, "window"),
    "too much": ({"seconds": 60.0, "window": 0.5, "width": 8192, "height": 8192, "fps": 120}, "seconds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_go_together_is_refused(planned, case):
    fields, blamed = REFUSED[case]
    with pytest.raises(RequestError) as refused:
        planned(**fields)
    assert refused.value.field == blamed


@pytest.mark.slow
def test_the_command_line_writes_it_as_one_clip(model_folder, tmp_path, capsys):
    words = ["--model", str(model_folder), "--prompt", "a red ball", "--seed", "3", "--steps", "2", "--quiet"]
    words += ["--seconds", "1.5", "--window", "0.8", "--overlap", "0.25"]
    assert generate.main([*words, "--output", str(tmp_path / "clip.mp4")]) == 0
    found = probe(tmp_path / "clip.mp4")
    assert found.video.packets == 25
    assert found.audio.duration_s == pytest.approx(25 / 16, abs=1e-3)
    record = json.loads((tmp_path / "clip.json").read_text())
    assert (record["request"]["window"], record["clip"]["frames"]) == (0.8, 25)
    assert generate.main([*words, "--output", str(tmp_path / "other.mp4"), "--ranks", "2"]) == 1
    assert "one device" in capsys.readouterr().err


def test_a_plan_is_of_what_is_made_at_once(capsys):
    words = ["--preset", "tiny", "--seconds", "2", "--window", "1", "--dry-run"]
    assert generate.main(words) == 1
    assert "window: a plan is of what is made at once" in capsys.readouterr().err
