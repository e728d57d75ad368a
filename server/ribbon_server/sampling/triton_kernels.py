"""Triton kernel of the sampler: Gumbel noise added to whole rows in one pass (design section 4, rule 1)."""

import triton
import triton.language as tl


@triton.jit
def add_gumbel_kernel(scores, output, seeds, positions, choices, vocab_size, block: tl.constexpr):
    """One program a row and block of counters; a counter gives the noise of four tokens that lie side by side.

    scores, output float32 [rows, vocab]; seeds int64 [rows] with the bits of the key; positions, choices int64 [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    counter = tl.program_id(1) * block + tl.arange(0, block)
    seed = tl.load(seeds + row)
    k0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c0 = counter.to(tl.uint32)
    c1 = tl.zeros_like(c0) + tl.load(positions + row).to(tl.uint32)
    c2 = tl.zeros_like(c0) + tl.load(choices + row).to(tl.uint32)
    c3 = tl.zeros_like(c0)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    base = row * vocab_size
    add_word(scores, output, base, counter * 4, vocab_size, c0)
    add_word(scores, output, base, counter * 4 + 1, vocab_size, c1)
    add_word(scores, output, base, counter * 4 + 2, vocab_size, c2)
    add_word(scores, output, base, counter * 4 + 3, vocab_size, c3)


@triton.jit
def add_word(scores, output, base, token, vocab_size, word):
    """The noise of one of a counter's four tokens, from its 32-bit word."""
    inside = token < vocab_size
    uniform = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    noise = -tl.log(-tl.log(uniform))
    score = tl.load(scores + base + token, mask=inside, other=0.0)
    tl.store(output + base + token, score + noise, mask=inside)
