"""Gumbel noise on a device in one launch; the plain torch version in `device_random.py` takes a hundred."""

import torch
import triton
from torch import Tensor

from ribbon_server.sampling.triton_kernels import add_gumbel_kernel

COUNTERS_PER_PROGRAM = 512
TOKENS_PER_COUNTER = 4


def add_gumbel(scores: Tensor, seed: Tensor, position: Tensor, choice: Tensor) -> Tensor:
    """scores float32 [rows, vocab], contiguous, plus each row's noise; the rest as in `gumbel_rows`."""
    rows, vocab_size = scores.shape
    output = torch.empty_like(scores)
    programs = triton.cdiv(vocab_size, COUNTERS_PER_PROGRAM * TOKENS_PER_COUNTER)
    add_gumbel_kernel[(rows, programs)](scores, output, seed, position, choice, vocab_size, block=COUNTERS_PER_PROGRAM)
    return output
