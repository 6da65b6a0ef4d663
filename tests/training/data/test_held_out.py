"""Samples that no step learns from."""

from dataclasses import dataclass

from pipelines.training.data.held_out import chosen_of, held_out
from pipelines.training.latents.spec import clip_of


@dataclass(frozen=True)
class Sample:
    key: str
    kind: str


def windows(clips, kind="video", part="w"):
    return [Sample(f"clip{clip:04d}-{part}{number}", kind) for clip in range(clips) for number in range(3)]


def everything(entry):
    return True


def test_all_windows_and_frames_of_a_clip_are_held_out_together():
    buckets = {"clips": windows(100), "frames": windows(100, "image", "i")}
    held = held_out(buckets, [everything])
    clips = {clip_of(key) for key in held}
    assert len(clips) == 6
    assert held == {entry.key for bucket in buckets.values() for entry in bucket if clip_of(entry.key) in clips}


def test_as_many_as_the_data_can_spare():
    assert [len(chosen_of(map(str, range(clips)))) for clips in (0, 3, 4, 40, 100, 10_000)] == [0, 0, 1, 2, 6, 16]


def test_more_data_leaves_most_of_what_was_held_out_where_it_was():
    few, many = (set(chosen_of(map(str, range(clips)))) for clips in (1000, 1050))
    assert len(few & many) >= 14


def test_a_task_is_left_something_to_learn_from():
    """Of 16 clips one can serve the task: whichever are held out, that one is not."""
    buckets = {"clips": windows(16)}
    for clip in range(16):
        held = held_out(buckets, [everything, lambda entry, clip=clip: clip_of(entry.key) == f"clip{clip:04d}"])
        assert f"clip{clip:04d}" not in {clip_of(key) for key in held}
