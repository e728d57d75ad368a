"""The soft watermark of Kirchenbauer et al., https://arxiv.org/abs/2301.10226, algorithm 2: the last token makes a part of the
vocabulary green, and green tokens get a bonus. First of all processors, so that it acts on the model's own scores.
"""

import numpy as np
from torch import Tensor

from ribbon_server import _native
from ribbon_server.sampling.state import SamplingRows


class Watermark:
    """`watermark_gamma` is the green share, `watermark_delta` the bonus."""

    ORDER = 50

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where a share is green."""
        return rows.params["watermark_gamma"] > 0.0

    def prepare(self, rows: SamplingRows) -> tuple[SamplingRows, Tensor]:
        """The rows and their bonuses [rows, 1]."""
        return rows, rows.column(rows.params["watermark_delta"])

    def apply(self, logits: Tensor, prepared: tuple[SamplingRows, Tensor]) -> None:
        """Adds in place. The lists are made on the host, so they are the same on every device."""
        rows, bonus = prepared
        last = rows.state.history[rows.slots, rows.known - 1].astype(np.uint32)
        size = (rows.params["watermark_gamma"].astype(np.float64) * logits.shape[1]).astype(np.uint32)
        green = np.empty(tuple(logits.shape), np.uint8)
        _native.mark_green(last, size, green)
        logits.add_(rows.tensor(green) * bonus)
