"""Named random streams of one seed, from NumPy's counter-based Philox generator under the key

    (seed, blake2b-64 of the stream's name)

Streams of different names are independent, and each is the same on every device and in every release.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """Key of a Philox generator, two 64-bit words: the seed, and a hash of the stream's name that never changes."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed!r}")
    digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
    return int(seed), int.from_bytes(digest, "little")


def philox(seed: int, stream: str) -> np.random.Philox:
    """Bit generator of one named stream. Its raw words follow a specification and never change."""
    return np.random.Philox(key=np.array(stream_key(seed, stream), dtype=np.uint64))


def stream_generator(seed: int, stream: str) -> np.random.Generator:
    """NumPy generator of one named stream of a seed (``data/epoch 3``, ``scores/conv1`` ...)."""
    return np.random.Generator(philox(seed, stream))
