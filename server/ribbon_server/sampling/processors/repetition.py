"""Repetition penalty over the whole history: score / p above zero, score * p below. https://arxiv.org/abs/1909.05858"""

import numpy as np
import torch
from torch import Tensor

from ribbon_server.sampling.state import SamplingRows


class Repetition:
    """Once a token, however often it stands in the history."""

    ORDER = 100

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where the penalty is not 1."""
        return rows.params["repetition_penalty"] != 1.0

    def prepare(self, rows: SamplingRows) -> tuple[Tensor, Tensor]:
        """Token ids [rows, longest], padded with the row's own first token, and penalties [rows, 1]."""
        ids, known = rows.history()
        first = np.take_along_axis(ids, rows.first[:, None], axis=1)
        return rows.tensor(np.where(known, ids, first)), rows.column(rows.params["repetition_penalty"])

    def apply(self, logits: Tensor, prepared: tuple[Tensor, Tensor]) -> None:
        """Repeated ids write the same value."""
        ids, penalty = prepared
        scores = logits.gather(1, ids)
        logits.scatter_(1, ids, torch.where(scores > 0, scores / penalty, scores * penalty))
