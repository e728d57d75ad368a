"""Waste that other ways of holding KV memory would have for the same sequences. Pure arithmetic on lengths in tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]  # [sequences]: tokens each one holds now

BLOCK_TOKENS = 16


def held_tokens(tokens: Tokens, cap: int, stride_bytes: int, page_bytes: int) -> dict[str, float]:
    """By allocator, the memory it holds for sequences of these lengths, in tokens' worth."""
    pages = -(-tokens * stride_bytes // page_bytes)
    return {
        "max-length": float(cap * len(tokens)),
        "power of two": float((2 ** np.ceil(np.log2(tokens))).sum()),
        f"pages of {BLOCK_TOKENS} tokens": float((-(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS).sum()),
        "ribbon, computed": float(pages.sum()) * page_bytes / stride_bytes,
    }


def wastes(tokens: Tokens, cap: int, stride_bytes: int, page_bytes: int) -> dict[str, float]:
    """By allocator, the share of the held memory that holds no token. There must be a sequence."""
    held = held_tokens(tokens, cap, stride_bytes, page_bytes)
    return {name: 1.0 - float(tokens.sum()) / size for name, size in held.items()}
