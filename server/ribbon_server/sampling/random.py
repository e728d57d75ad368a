"""The counter-based generator (design section 4, rule 1), in NumPy: the reference of the native and device versions.

Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Noise depends on seed, position, choice and
token alone: never on batch, sort order or vocabulary sharding.
"""

import numpy as np

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)


def philox(key: int, counter: np.ndarray) -> np.ndarray:
    """counter uint32 [n, 4] under a 64-bit key: uint32 [n, 4]."""
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(ROUNDS):
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (second >> WORD) ^ c1 ^ k0, second & LOW, (first >> WORD) ^ c3 ^ k1, first & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return np.stack((c0, c1, c2, c3), axis=1).astype(np.uint32)


def uniform(words: np.ndarray) -> np.ndarray:
    """uint32 to float32 in (0, 1): (x div 2^9 + 1/2) * 2^-23, exact."""
    return ((words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def gumbel(seed: int, position: int, choice: int, token_ids: np.ndarray) -> np.ndarray:
    """Gumbel noise of tokens at a position of a sequence: float32 [n], within [-2.82, 16.64]."""
    tokens = token_ids.astype(np.uint32)
    counter = np.zeros((len(tokens), 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2] = tokens // 4, position, choice
    words = philox(seed, counter)[np.arange(len(tokens)), tokens % 4]
    return -np.log(-np.log(uniform(words)))
