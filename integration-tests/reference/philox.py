"""The counter-based noise of sampling in NumPy, written from design §4 rule 1 alone. Knows seeds, positions and token ids; not scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))  # Salmon et al., SC11, Philox4x32
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
WORD_BITS = np.uint64(32)

Words = NDArray[np.uint64]  # 32-bit values in 64-bit lanes, so that products keep their upper half


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10. `counter` and the result are [rows, 4]."""
    c0, c1, c2, c3 = (counter[:, column].astype(np.uint64) for column in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> WORD_BITS) ^ c1 ^ np.uint64(k0),
            second & LOW,
            (first >> WORD_BITS) ^ c3 ^ np.uint64(k1),
            first & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def gumbel(seed: int, position: int, choice: int, vocabulary: int) -> NDArray[np.float32]:
    """Noise of every token id [vocabulary] for the token at `position` of the history."""
    blocks = (vocabulary + 3) // 4
    counter = np.zeros((blocks, 4), dtype=np.uint64)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1] = position
    counter[:, 2] = choice
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)[:vocabulary]
    uniform = ((words >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    return -np.log(-np.log(uniform))
