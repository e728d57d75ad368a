"""What a logits processor is. Works on the active rows of a batch together, in place."""

from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ribbon_server.sampling.state import SamplingRows

Prepared = TypeVar("Prepared")


class Processor(Protocol[Prepared]):
    """Changes logits before temperature and filters."""

    ORDER: int

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Which rows it changes, bool [rows]."""
        ...

    def prepare(self, rows: SamplingRows) -> Prepared:
        """Its tensors for the active rows."""
        ...

    def apply(self, logits: Tensor, prepared: Prepared) -> None:
        """Changes logits float32 [active rows, vocab] in place."""
        ...


def token_counts(rows: SamplingRows, ids: np.ndarray, counted: np.ndarray, vocab_size: int) -> Tensor:
    """How often each token stands among the counted ids of its row: float32 [rows, vocab]."""
    counts = torch.zeros((len(ids), vocab_size), device=rows.device)
    return counts.scatter_add_(1, rows.tensor(ids), rows.tensor(counted.astype(np.float32)))


def generated_counts(rows: SamplingRows, vocab_size: int) -> Tensor:
    """How often each token was generated: float32 [rows, vocab]."""
    ids, known = rows.history()
    return token_counts(rows, ids, known & (np.arange(ids.shape[1]) >= rows.prompt[:, None]), vocab_size)
