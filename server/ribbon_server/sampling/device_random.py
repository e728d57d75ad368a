"""The counter-based generator (design section 4, rule 1) in torch: noise for whole rows of a vocabulary, on any device."""

import torch
from torch import Tensor

from ribbon_server.sampling.random import MULTIPLIERS, ROUNDS, WEYL

LOW = 0xFFFFFFFF
HALF, HALF_BITS = 0xFFFF, 16
WORDS = 4  # of one counter


def gumbel_rows(seed: Tensor, position: Tensor, choice: Tensor, vocab_size: int) -> Tensor:
    """Gumbel noise float32 [rows, vocab]; seed, position and choice are int64 [rows], seed with the bits of its 64-bit key."""
    counters = torch.arange(-(-vocab_size // WORDS), device=seed.device)
    words = _philox(seed, counters, position[:, None], choice[:, None])
    ordered = torch.stack(words, dim=-1).flatten(1)[:, :vocab_size]
    uniform = ((ordered >> 9).float() + 0.5) * 2.0**-23
    return uniform.log_().neg_().log_().neg_()


def _philox(seed: Tensor, c0: Tensor, c1: Tensor, c2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words, each int64 [rows, counters], of the counters (c0, c1, c2, 0) under each row's key."""
    k0, k1 = (seed & LOW)[:, None], ((seed >> 32) & LOW)[:, None]
    c3 = torch.zeros_like(c1)
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, int(MULTIPLIERS[0]))
        high1, low1 = _multiply(c2, int(MULTIPLIERS[1]))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + int(WEYL[0])) & LOW, (k1 + int(WEYL[1])) & LOW
    return c0, c1, c2, c3


def _multiply(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product; in halves, since int64 has a sign."""
    upper, lower = x >> HALF_BITS, x & HALF
    small = lower * factor
    large = upper * factor + (small >> HALF_BITS)
    return large >> HALF_BITS, ((large & HALF) << HALF_BITS) | (small & HALF)
