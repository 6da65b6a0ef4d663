import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.choice.dedup import DedupTable, find_duplicates
from pipelines.curation.choice.hash_index import aligned_share, candidate_pairs
from pipelines.curation.recipe import DedupConfig

ALL = DedupConfig(perceptual_bits=6, perceptual_share=0.6, semantic_cosine=0.95)


def flipped(hashes, rng, bits):
    """Each hash with up to `bits` random bits turned."""
    out = hashes.copy()
    for i in range(len(out)):
        for bit in rng.choice(64, size=rng.integers(0, bits + 1), replace=False):
            out[i] ^= np.uint64(1) << np.uint64(bit)
    return out


def world(seed, count=40):
    """Random clips, many of them exact, perceptual, shifted or semantic copies of earlier ones."""
    rng = np.random.default_rng(seed)
    content, hashes, vectors = [], [], []
    for i in range(count):
        kind = rng.integers(0, 6) if i else 0
        of = int(rng.integers(0, i)) if i else 0
        content.append(content[of] if kind == 1 else f"c{i}")
        copied = hashes[of] if kind in (1, 2, 3) else drifting(rng, rng.integers(2, 9))
        if kind == 2:
            copied = flipped(copied, rng, 7)
        if kind == 3:
            copied = flipped(copied[rng.integers(0, 2) :], rng, 3)
        hashes.append(copied)
        fresh = rng.normal(size=8)
        vectors.append(vectors[of] + rng.normal(size=8) * 0.12 if kind in (1, 4) else fresh)
    return [
        (f"k{i:03d}", content[i], float(rng.integers(0, 3)), hashes[i], np.float32(vectors[i])) for i in range(count)
    ]


def table(rows):
    keys, content, quality, hashes, vectors = zip(*rows, strict=True)
    return DedupTable(keys, content, np.array(quality), hashes, np.stack(vectors))


def slow_share(a, b, bits):
    """Shift by shift, frame by frame, in plain integers."""

    def differ(x, y):
        return (int(x) ^ int(y)).bit_count()

    def agree(x, others, place):
        if differ(x, others[place]) <= bits:
            return True
        if place + 1 == len(others) or differ(others[place], others[place + 1]) > 20:
            return False
        return ((int(x) ^ int(others[place])) & (int(x) ^ int(others[place + 1]))).bit_count() <= bits

    best = 0
    for shift in range(-len(b) + 1, len(a)):
        pairs = [(i, i - shift) for i in range(len(a)) if 0 <= i - shift < len(b)]
        best = max(best, sum(agree(a[i], b, j) for i, j in pairs), sum(agree(b[j], a, i) for i, j in pairs))
    return best / min(len(a), len(b)) if len(a) and len(b) else 0.0


def found_together(a, b, bits):
    """Two clips are compared at all if a pair of their frames is within `bits`."""
    return any((int(x) ^ int(y)).bit_count() <= bits for x in a for y in b)


def drifting(rng, count):
    """Hashes of a moving scene: neighbours differ in up to 12 bits."""
    hashes = rng.integers(1, 2**63, size=1, dtype=np.uint64)
    while len(hashes) < count:
        hashes = np.append(hashes, flipped(hashes[-1:], rng, 12))
    return hashes


def brute_force(new, kept, config):
    """The definition, pair by pair: down the ranks, the first retained match of the strongest method."""
    ranked = sorted(kept) + sorted(new, key=lambda row: (-row[2], row[0]))
    retained, found = [], []
    for place, row in enumerate(ranked):
        matches = []
        for other in retained:
            cosine = float(row[4] @ other[4] / np.linalg.norm(row[4]) / np.linalg.norm(other[4]))
            if config.exact and row[1] == other[1]:
                matches.append((0, other[0], "exact"))
            elif found_together(row[3], other[3], 6) and slow_share(row[3], other[3], 6) >= config.perceptual_share:
                matches.append((1, other[0], "perceptual"))
            elif cosine >= config.semantic_cosine:
                matches.append((2, other[0], "semantic"))
        if place < len(kept) or not matches:
            retained.append(row)
        else:
            found.append((row[0], *min(matches, key=lambda m: m[0])[1:]))  # min keeps the best rank
    return sorted(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30))
def test_equals_the_pairwise_definition(seed, committed):
    rows = world(seed)
    kept, new = rows[:committed], rows[committed:]
    found = find_duplicates(table(new), table(kept) if kept else None, ALL)
    assert [tuple(d[:3]) for d in found] == brute_force(new, kept, ALL)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(seed, random):
    kept, new = world(seed)[:10], world(seed)[10:]
    before = find_duplicates(table(new), table(kept), ALL)
    random.shuffle(kept)
    random.shuffle(new)
    assert find_duplicates(table(new), table(kept), ALL) == before


def test_what_was_committed_stays_whatever_comes_later():
    rows = world(3)
    kept = [(k, c, -9.0, h, v) for k, c, _, h, v in rows[:15]]
    better = [(f"new-{k}", c, 9.0, h, v) for k, c, _, h, v in rows[:15]]
    found = find_duplicates(table(better), table(kept), ALL)
    assert {d.key for d in found} == {row[0] for row in better}
    assert {d.of_key for d in found} <= {row[0] for row in kept}


def test_the_better_of_two_new_copies_stays():
    base = world(0)[0]
    rows = [("a", *base[1:2], 1.0, *base[3:]), ("b", *base[1:2], 2.0, *base[3:])]
    assert [(d.key, d.of_key, d.method) for d in find_duplicates(table(rows), None, ALL)] == [("a", "b", "exact")]


def test_a_key_given_twice_is_refused():
    rows = world(1)[:3]
    with pytest.raises(ValueError, match="k001 occurs twice"):
        find_duplicates(table(rows), table(rows[1:2]), ALL)


def test_embeddings_of_two_backends_are_refused():
    rows = world(1)[:4]
    others = [(f"other-{k}", c, q, h, np.ones(5, np.float32)) for k, c, q, h, _ in rows]
    with pytest.raises(ValueError, match=r"\[5, 8\] numbers cannot be compared"):
        find_duplicates(table(rows), table(others), ALL)


def test_methods_can_be_switched_off():
    rows = world(5)
    off = DedupConfig(exact=False, perceptual_bits=None, semantic_cosine=None)
    assert find_duplicates(table(rows), None, off) == []
    only_exact = DedupConfig(perceptual_bits=None)
    assert {d.method for d in find_duplicates(table(rows), None, only_exact)} <= {"exact"}


def test_clips_without_content_hashes_or_embedding_match_nothing():
    blank = [(f"b{i}", "", 0.0, np.empty(0, np.uint64), np.zeros(8, np.float32)) for i in range(5)]
    assert find_duplicates(table(blank), None, ALL) == []


def test_plain_frames_agree_with_nothing():
    black = np.zeros(10, np.uint64)
    assert aligned_share(black, black, 6) == 0.0
    assert len(candidate_pairs([black, black], 0, 6)) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_alignment_equals_the_slow_one_both_ways(seed):
    rng = np.random.default_rng(seed)
    film = drifting(rng, 12)
    a, b = flipped(film[rng.integers(0, 5) :], rng, 6), flipped(film[: rng.integers(1, 12)], rng, 6)
    assert aligned_share(a, b, 6) == slow_share(a, b, 6) == aligned_share(b, a, 6)


def test_a_sub_clip_sampled_between_the_samples_of_its_film_is_known_again():
    rng = np.random.default_rng(0)
    film = np.empty(40, np.uint64)
    film[0] = 1 << 40
    for i in range(1, 40):  # eight bits turn per step and stay turned for a while
        turned = rng.choice(64, size=8, replace=False).astype(np.uint64)
        film[i] = film[i - 1] ^ np.bitwise_xor.reduce(np.uint64(1) << turned)
    assert aligned_share(film[11:31:2], film[::2], 6) >= 0.9
    other = drifting(rng, 20)
    assert aligned_share(other, film, 6) == 0.0


def test_a_sub_clip_shifted_in_time_matches_whole():
    rng = np.random.default_rng(0)
    film = rng.integers(1, 2**63, size=30, dtype=np.uint64)
    assert aligned_share(film[11:17], film, 0) == 1.0
    assert aligned_share(rng.permutation(film), film, 0) < 0.4  # the same frames in another order are another clip


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_no_pair_of_near_hashes_is_missed(seed, first_query):
    hashes = [row[3] for row in world(seed)]
    expected = [
        (i, j)
        for i in range(first_query, len(hashes))
        for j in range(i)
        if (np.bitwise_count(hashes[i][:, None] ^ hashes[j][None, :]) <= 6).any()
    ]
    assert candidate_pairs(hashes, first_query, 6).tolist() == [list(pair) for pair in expected]


def test_a_clip_repeated_very_often_is_found_without_comparing_all_with_all(monkeypatch):
    monkeypatch.setattr("pipelines.curation.choice.hash_index._GROUP", 5)
    rng = np.random.default_rng(0)
    spam, own = drifting(rng, 6), [drifting(rng, 6) for _ in range(300)]
    hashes = [np.concatenate([spam[:2], clip]) for clip in own] + [spam] * 300  # a title card, and spam
    rows = [(f"{i:03d}", f"c{i}", 0.0, clip, np.zeros(4, np.float32)) for i, clip in enumerate(hashes)]
    found = find_duplicates(table(rows), None, ALL)
    assert [d.key for d in found] == [row[0] for row in rows[301:]]
    assert len(candidate_pairs(hashes, 0, 6)) < 600 * 5 * 8


def test_thousands_alike_in_meaning_are_found_without_keeping_every_pair(monkeypatch):
    monkeypatch.setattr("pipelines.curation.choice.dedup._MATCHES", 3)
    vectors = np.random.default_rng(0).normal(size=(1, 16)) + np.random.default_rng(1).normal(size=(400, 16)) * 0.01
    rows = [(f"{i:03d}", "", 0.0, np.empty(0, np.uint64), np.float32(vector)) for i, vector in enumerate(vectors)]
    found = find_duplicates(table(rows), None, ALL)
    assert [(d.key, d.of_key) for d in found] == [(row[0], "000") for row in rows[1:]]


def test_clusters_miss_few_of_the_pairs_that_all_comparisons_find(monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, 32))
    vectors = np.repeat(centres, 5, axis=0) + rng.normal(size=(1500, 32)) * 0.15
    count = len(vectors)
    empty = [np.empty(0, np.uint64)] * count
    many = DedupTable([f"{i:04d}" for i in range(count)], [""] * count, np.zeros(count), empty, np.float32(vectors))
    config = DedupConfig(semantic_cosine=0.95)
    everything = {d.key for d in find_duplicates(many, None, config)}
    monkeypatch.setattr("pipelines.curation.choice.dedup._ALL_PAIRS", 100)
    monkeypatch.setattr("pipelines.curation.choice.dedup._PER_CLUSTER", 50)
    clustered = {d.key for d in find_duplicates(many, None, config)}
    assert len(everything) > 1000
    assert len(everything & clustered) >= 0.98 * len(everything)
