"""What is random, as a function of names: orders that need no memory, and generators that a rerun draws again."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from skyreels.commits import stable_json

_ROUNDS = 6
_ODD = np.uint64(0x9E3779B97F4A7C15)

Indices = NDArray[np.uint64]


def permuted(positions: Indices, size: int, *seed: object) -> Indices:
    """Where `positions`, each below `size`, go in a random order of `size` elements that `seed` names.

    A Feistel network over the next power of four, walked on from results that are not below `size` (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002): one to one, O(1) for any size, the same on any machine.
    """
    half = max((size - 1).bit_length() + 1, 2) // 2
    keys = np.frombuffer(hashlib.blake2b(repr(seed).encode(), digest_size=8 * _ROUNDS).digest(), "<u8")
    values = _rounds(positions.astype(np.uint64), half, keys)
    while (outside := values >= size).any():
        values[outside] = _rounds(values[outside], half, keys)
    return values


def drawn_by(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on the seed and these names alone."""
    digest = hashlib.blake2b(stable_json([seed, *names]), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _rounds(values: Indices, half: int, keys: Indices) -> Indices:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << np.uint64(half)) | right


def _mixed(values: Indices) -> Indices:
    """The finaliser of splitmix64 (Steele, Lea, Flood, 2014): every bit of the input changes half of the output's."""
    values = values * _ODD
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
