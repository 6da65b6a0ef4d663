"""What is random about a sample, as a function of its key: a rerun draws the same."""

import hashlib

import numpy as np

from skyreels.commits import stable_json


def drawn_by(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on the seed and these names alone."""
    digest = hashlib.blake2b(stable_json([seed, *names]), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
