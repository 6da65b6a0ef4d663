"""What a step sees: mix, coverage, sameness on all ranks, and errors, on made-up buckets."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.data.sampler import Sampler, SamplerError
from pipelines.training.data.selection import Listed


@dataclass(frozen=True)
class Item:
    key: str
    kind: str
    heard: bool = True


def items(bucket: str, count: int, heard: int | None = None) -> tuple[Item, ...]:
    kind = bucket.partition("-")[0]
    return tuple(Item(f"{bucket}/{i}", kind, i < (count if heard is None else heard)) for i in range(count))


BUCKETS = {"image-a": items("image-a", 37), "video-a": items("video-a", 50, 20), "video-b": items("video-b", 11, 11)}
MIX = {"t2i": 0.3, "t2v": 0.5, "i2v": 0.05, "t2av": 0.15}
TOKENS = {"image-a": 10, "video-a": 30, "video-b": 100}


def usable(task: str, item: Item) -> bool:
    return item.kind == ("image" if task == "t2i" else "video") and (task != "t2av" or item.heard)


def make(buckets=BUCKETS, mix=MIX, slots=2, tokens_per_slot=100, **options) -> Sampler[Item]:
    return Sampler(
        buckets,
        mix,
        usable=usable,
        tokens=lambda task, bucket: TOKENS.get(bucket, 10),
        slots=slots,
        tokens_per_slot=tokens_per_slot,
        **options,
    )


def keys(draw) -> list[str]:
    return [item.key for slot in draw.slots for item in slot]


def test_a_thousand_draws_hold_the_mix_of_the_recipe():
    sampler = make()
    drawn = Counter(sampler.draw(step).task for step in range(1000))
    assert drawn == {task: round(1000 * share) for task, share in MIX.items()}


def test_any_stretch_is_near_the_mix():
    """Against the chi-square distribution of independent draws, whose mean is the number of tasks less one."""
    sampler = make(mix={"t2i": 0.27, "t2v": 0.5, "i2v": 0.04, "t2av": 0.19})
    drawn = Counter(sampler.task(step) for step in range(123, 723))
    expected = {"t2i": 162, "t2v": 300, "i2v": 24, "t2av": 114}
    assert sum((drawn[task] - count) ** 2 / count for task, count in expected.items()) < 11.3  # p = 0.01 at 3 degrees


def test_tasks_do_not_come_in_a_fixed_order():
    sampler = make()
    blocks = [tuple(sampler.task(step) for step in range(start, start + 20)) for start in range(0, 200, 20)]
    assert len(set(blocks)) == len(blocks)


def test_the_same_step_is_the_same_on_every_rank_and_after_a_resume():
    one, other = make(), make()
    in_order = [one.draw(step) for step in range(60)]
    backwards = [other.draw(step) for step in reversed(range(60))]
    assert in_order == backwards[::-1]
    assert make(seed=1).draw(7) != in_order[7]


def test_all_slots_of_a_step_hold_equally_many_samples_of_one_bucket_that_the_task_can_use():
    sampler = make()
    for step in range(200):
        draw = sampler.draw(step)
        assert len(draw.slots) == 2
        assert len({len(slot) for slot in draw.slots}) == 1
        for slot in draw.slots:
            assert all(item.key.startswith(draw.bucket) and usable(draw.task, item) for item in slot)


def test_a_slot_holds_as_many_samples_as_its_tokens_allow_and_at_least_one():
    sizes = {(draw.bucket, len(draw.slots[0])) for draw in map(make().draw, range(300)) if draw.task == "t2v"}
    assert sizes == {("video-a", 3), ("video-b", 1)}


def test_a_slot_holds_no_more_than_its_part_of_what_there_is():
    sampler = make(buckets={"image-a": items("image-a", 5)}, mix={"t2i": 1}, slots=2, tokens_per_slot=10_000)
    assert len(sampler.draw(0).slots[0]) == 3  # of 5, over two slots; one sample comes twice
    assert set(keys(sampler.draw(0))) == {item.key for item in items("image-a", 5)}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    slots=st.integers(1, 4),
    tokens_per_slot=st.integers(1, 120),
    seed=st.integers(0, 99),
)
def test_an_epoch_goes_through_every_sample_before_any_comes_again(counts, slots, tokens_per_slot, seed):
    """Up to the remainder: the last batch of a bucket is filled up from its front."""
    buckets = {f"image-{i}": items(f"image-{i}", count) for i, count in enumerate(counts)}
    sampler = make(buckets, {"t2i": 1}, slots, tokens_per_slot, seed=seed)
    steps = sampler.steps_per_epoch
    for epoch in range(2):
        draws = [sampler.draw(step) for step in range(epoch * steps, (epoch + 1) * steps)]
        assert {draw.epoch for draw in draws} == {epoch}
        for bucket, entries in buckets.items():
            mine = [draw for draw in draws if draw.bucket == bucket]
            seen = Counter(key for draw in mine for key in keys(draw))
            assert seen.keys() == {item.key for item in entries}
            batch = len(keys(mine[0]))
            assert sum(seen.values()) - len(entries) < batch
            assert max(seen.values()) <= 1 + batch // len(entries) + 1
    assert sampler.draw(2 * steps).epoch == 2


def test_epochs_are_shuffled_anew():
    sampler = make(mix={"t2v": 1}, slots=1, tokens_per_slot=100)
    steps = sampler.steps_per_epoch
    first, second = ([keys(sampler.draw(step + epoch * steps)) for step in range(steps)] for epoch in range(2))
    assert first != second
    assert first != sorted(first)


def test_tasks_with_the_same_samples_share_an_epoch():
    """t2v and i2v together go through the clips once; t2av, which needs sound, has its own order."""
    sampler = make()
    assert {frozenset(pool.tasks) for pool in sampler.pools} == {
        frozenset({"t2i"}),
        frozenset({"t2v", "i2v"}),
        frozenset({"t2av"}),
    }
    seen: Counter[str] = Counter()
    for step in range(2000):
        draw = sampler.draw(step)
        if draw.task in ("t2v", "i2v"):
            if draw.epoch:
                break
            seen.update(keys(draw))
    assert seen.keys() == {item.key for name in ("video-a", "video-b") for item in BUCKETS[name]}
    assert Counter(seen.values())[1] >= 55  # of 61; remainders come twice


def test_buckets_come_in_proportion_to_what_they_hold():
    buckets = {"image-a": items("image-a", 300), "image-b": items("image-b", 100)}
    sampler = make(buckets, {"t2i": 1}, slots=1, tokens_per_slot=10)
    drawn = Counter(sampler.draw(step).bucket for step in range(400))
    assert drawn == {"image-a": 300, "image-b": 100}
    early = Counter(sampler.draw(step).bucket for step in range(100))
    assert 60 <= early["image-a"] <= 90  # mixed, not one after the other


def test_steps_per_epoch_count_a_sample_of_two_tasks_once():
    sampler = make(mix={"t2v": 0.7, "i2v": 0.3}, slots=1, tokens_per_slot=100)
    assert sampler.steps_per_epoch == 17 + 11  # 50 clips by 3, 11 clips by 1


def test_an_epoch_is_as_many_samples_as_there_are_however_many_a_step_takes():
    """t2av takes fewer a step than the others, so the 61 clips are more steps."""
    sampler = make(mix={"t2v": 0.5, "i2v": 0.3, "t2av": 0.2}, slots=1, tokens_per_slot=100)
    taken = {pool.name: pool.samples / pool.batches for pool in sampler.pools}
    assert sampler.steps_per_epoch == math.ceil(61 / (0.8 * taken["i2v+t2v"] + 0.2 * taken["t2av"]))


def test_by_epochs_every_kind_comes_as_often():
    """Of pictures more fit a step than of clips: by shares of steps, they would come so much more often."""
    buckets = {"image-a": items("image-a", 200), "video-a": items("video-a", 200)}
    sampler = make(buckets, {"t2i": 0.5, "t2v": 0.5}, slots=1, tokens_per_slot=100)
    even = sampler.by_epochs()
    size = {draw.bucket: len(keys(draw)) for draw in map(even.draw, range(200))}
    apart = size["image-a"] / size["video-a"]
    assert apart > 2
    for tried, ratio in ((even, 1.0), (sampler, apart)):
        drawn = Counter(tried.draw(step).bucket for step in range(400))
        assert apart * drawn["image-a"] / drawn["video-a"] == pytest.approx(ratio, rel=0.15)
    assert even.steps_per_epoch == sampler.steps_per_epoch


class Endless(Sequence[Item]):
    """More samples than fit into memory, made when asked for."""

    def __len__(self) -> int:
        return 10**8

    def __getitem__(self, index):
        assert isinstance(index, int), "nothing may slice a bucket"
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Item(f"image-a/{index}", "image")


def test_a_draw_does_not_look_at_every_entry(monkeypatch):
    """Only building does; its scan of 10^8 entries is left out here by saying that all are usable."""
    monkeypatch.setattr(Listed, "usable", lambda listed, usable, held: range(len(listed)))
    sampler = make({"image-a": Endless()}, {"t2i": 1}, slots=8, tokens_per_slot=100)
    seen = [key for step in range(0, 10**6, 10**4) for key in keys(sampler.draw(step))]
    assert len(set(seen)) == len(seen) == 8000
    assert sampler.steps_per_epoch == 10**8 // 80


def test_what_is_kept_of_entries_is_four_bytes_each_and_nothing_where_all_are_usable():
    pools = {pool.name: pool for pool in make().pools}
    assert isinstance(pools["i2v+t2v"].parts[0].chosen, range)
    assert np.asarray(pools["t2av"].parts[0].chosen).dtype == np.uint32


def test_a_task_without_samples_is_an_error_that_says_what_is_missing_and_what_to_do():
    silent = {"video-a": items("video-a", 5, heard=0)}
    with pytest.raises(SamplerError) as error:
        make(silent, {"t2v": 0.8, "t2av": 0.2}, needs={"t2av": "clips with sound"})
    message = str(error.value)
    assert "no sample for t2av" in message
    assert "clips with sound" in message
    assert "5 in video-a" in message
    assert "tasks.t2av=0" in message


def test_an_empty_cache_is_an_error():
    with pytest.raises(SamplerError, match="hold no samples"):
        make({}, {"t2i": 1})


def test_an_optional_task_without_samples_leaves_its_share_and_is_told_once(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = make({"image-a": items("image-a", 9)}, {"t2i": 0.6, "t2v": 0.4}, optional=("t2v",))
        drawn = {sampler.draw(step).task for step in range(50)}
    assert drawn == {"t2i"}
    assert sampler.left_out == ("t2v",)
    assert sum("t2v" in record.message for record in caplog.records) == 1


def test_the_share_of_a_task_without_samples_goes_to_its_heirs():
    silent = {"image-a": items("image-a", 9), "video-a": items("video-a", 5, heard=0)}
    mix = {"t2i": 0.1, "t2v": 0.1, "i2v": 0.2, "t2av": 0.6}
    options = {"optional": ("t2av",), "heirs": {"t2av": ("t2v", "t2a")}}
    assert make(silent, mix, **options).mix == {"t2i": 100, "t2v": 700, "i2v": 200}
    pictures = {"image-a": items("image-a", 9)}
    assert make(pictures, mix, optional=tuple(mix), heirs=options["heirs"]).mix == {"t2i": 1000}
    two = {"t2av": 0.6, "t2v": 0.3, "t2i": 0.1}
    assert make(silent, two, optional=("t2av",), heirs={"t2av": ("t2v", "t2i")}).mix == {"t2v": 750, "t2i": 250}


def test_nothing_but_optional_tasks_and_no_sample_is_an_error():
    with pytest.raises(SamplerError, match="t2v"):
        make({"image-a": items("image-a", 9)}, {"t2v": 1}, optional=("t2v",))


def test_a_share_too_small_to_be_drawn_is_an_error():
    with pytest.raises(ValueError, match="i2v is below a thousandth"):
        make(mix={"t2v": 1, "i2v": 0.0001})


def test_replacements_are_other_samples_of_the_same_task_and_bucket():
    sampler = make()
    draw = next(draw for draw in map(sampler.draw, range(100)) if draw.task == "t2av" and draw.bucket == "video-a")
    broken = draw.slots[0][0]
    found = [sampler.replacement(draw, broken, attempt) for attempt in range(1, 20)]
    assert found == [make().replacement(draw, broken, attempt) for attempt in range(1, 20)]
    assert {item.key for item in found} == {item.key for item in BUCKETS["video-a"] if item.heard} - {broken.key}


def test_a_lone_sample_has_no_replacement():
    sampler = make({"image-a": items("image-a", 1)}, {"t2i": 1})
    draw = sampler.draw(0)
    with pytest.raises(SamplerError, match="nothing can replace it"):
        sampler.replacement(draw, draw.slots[0][0], 1)
