"""Near-duplicate search at scale: time per method, what is found of what was planted, and recall against all pairs.

    python benchmarks/dedup.py [--clips 100000] [--subset 4000]

Clips are random: hash sequences of 8-30 frames in which neighbours share most bits, embeddings of 256 numbers
around random concepts. A third are copies: identical, re-encoded (0-4 bits per frame turned), cut shorter, or close
in meaning.
"""

import argparse
import resource
import time
from collections.abc import Iterable

import numpy as np

from pipelines.curation.choice import dedup, hash_index
from pipelines.curation.choice.dedup import DedupTable, Duplicate, find_duplicates
from pipelines.curation.recipe import DedupConfig

METHODS = {
    "exact": DedupConfig(perceptual_bits=None),
    "perceptual": DedupConfig(exact=False, perceptual_bits=6),
    "semantic": DedupConfig(exact=False, perceptual_bits=None, semantic_cosine=0.95),
    "all": DedupConfig(perceptual_bits=6, semantic_cosine=0.95),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--subset", type=int, default=4_000, help="clips for the comparison with all pairs")
    options = parser.parse_args()

    clips, planted = make_clips(options.clips)
    print(
        f"{options.clips} clips, {sum(map(len, clips.hashes))} hashes, {sum(map(len, planted.values()))} copies planted"
    )
    for name, config in METHODS.items():
        found, seconds = timed(clips, None, config)
        line = f"{name:<11} {seconds:6.1f} CPU s   {len(found):6d} found"
        copies = planted.get(name)
        if copies:
            line += f"   {len(copies & {d.key for d in found}) / len(copies):7.2%} of its planted copies"
        print(line)

    new, kept = rows(clips, range(0, options.clips, 100)), rows(clips, [i for i in range(options.clips) if i % 100])
    _, seconds = timed(new, kept, METHODS["all"])
    print(f"incremental {seconds:6.1f} CPU s   {len(new.keys)} new clips against {len(kept.keys)} committed")

    subset = rows(clips, range(min(options.subset, options.clips)))
    for name in ("perceptual", "semantic"):
        print(f"recall of {name} on {len(subset.keys)} clips, searched as a large table: {recall(subset, name):.2%}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def make_clips(count: int) -> tuple[DedupTable, dict[str, set[str]]]:
    """Random clips, and by method the keys of the copies that method is there to find."""
    rng = np.random.default_rng(0)
    concepts = rng.normal(size=(max(1, count // 200), 256)).astype(np.float32)
    content: list[str] = []
    hashes: list[np.ndarray] = []
    vectors = np.empty((count, 256), np.float32)
    planted: dict[str, set[str]] = {"exact": set(), "perceptual": set(), "semantic": set()}
    for i in range(count):
        kind = rng.choice(
            ["new", "exact", "re-encoded", "shorter", "semantic"], p=[2 / 3, 1 / 12, 1 / 12, 1 / 12, 1 / 12]
        )
        of = int(rng.integers(0, i)) if i else 0
        key = f"{i:07d}"
        content.append(content[of] if i and kind == "exact" else key)
        hashes.append(shot(rng) if not i or kind in ("new", "semantic") else hashes[of])
        vectors[i] = concepts[rng.integers(len(concepts))] + rng.normal(size=256) * 0.6
        if not i or kind == "new":
            continue
        vectors[i] = vectors[of] + (rng.normal(size=256) * 0.2 if kind == "semantic" else 0)
        if kind in ("re-encoded", "shorter"):
            hashes[i] = turned(hashes[i], rng, 4)
            if kind == "shorter":
                start = int(rng.integers(0, len(hashes[i]) // 2))
                hashes[i] = hashes[i][start : start + max(4, len(hashes[i]) // 2)]
        planted["perceptual" if kind in ("re-encoded", "shorter") else str(kind)].add(key)
    keys = [f"{i:07d}" for i in range(count)]
    return DedupTable(keys, content, -np.arange(count, dtype=float), hashes, vectors), planted


def shot(rng: np.random.Generator) -> np.ndarray:
    """8-30 hashes that drift: each differs from the one before in up to 8 bits."""
    frames = rng.integers(1, 2**63, size=rng.integers(8, 31), dtype=np.uint64)
    for i in range(1, len(frames)):
        frames[i] = turned(frames[i - 1 : i], rng, 8)[0]
    return frames


def turned(hashes: np.ndarray, rng: np.random.Generator, bits: int) -> np.ndarray:
    places = rng.integers(0, 64, size=(len(hashes), bits), dtype=np.uint64)
    used = np.arange(bits) < rng.integers(0, bits + 1, size=len(hashes))[:, None]
    return hashes ^ np.bitwise_xor.reduce(np.where(used, np.uint64(1) << places, np.uint64(0)), axis=1)


def rows(clips: DedupTable, places: Iterable[int]) -> DedupTable:
    places = list(places)
    return DedupTable(
        [clips.keys[i] for i in places],
        [clips.content[i] for i in places],
        clips.quality[places],
        [clips.hashes[i] for i in places],
        None if clips.embeddings is None else clips.embeddings[places],
    )


def timed(new: DedupTable, kept: DedupTable | None, config: DedupConfig) -> tuple[list[Duplicate], float]:
    start = time.process_time()
    found = find_duplicates(new, kept, config)
    return found, time.process_time() - start


def recall(subset: DedupTable, method: str) -> float:
    """Share of what comparing all pairs finds that the large-table search finds as well."""
    everything = {d.key for d in find_duplicates(subset, None, METHODS[method])}
    settings = (dedup._ALL_PAIRS, dedup._PER_CLUSTER, hash_index._PAIR_BUDGET)
    dedup._ALL_PAIRS, dedup._PER_CLUSTER, hash_index._PAIR_BUDGET = 0, 64, 0.0  # clusters, and three wide bands
    try:
        quick = {d.key for d in find_duplicates(subset, None, METHODS[method])}
    finally:
        dedup._ALL_PAIRS, dedup._PER_CLUSTER, hash_index._PAIR_BUDGET = settings
    return len(everything & quick) / len(everything)


if __name__ == "__main__":
    main()
