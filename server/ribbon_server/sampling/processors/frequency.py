"""TGI's frequency penalty: score - penalty * count / history length, over the whole history (engine contract, part 4)."""

import numpy as np
from torch import Tensor

from ribbon_server.sampling.processors.base import token_counts
from ribbon_server.sampling.state import SamplingRows


class Frequency:
    """A relative frequency, not OpenAI's count."""

    ORDER = 200

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where the penalty is not 0."""
        return rows.params["frequency_penalty"] != 0.0

    def prepare(self, rows: SamplingRows) -> tuple[SamplingRows, Tensor]:
        """The rows, and penalty / length [rows, 1]."""
        return rows, rows.column(rows.params["frequency_penalty"] / (rows.known - rows.first))

    def apply(self, logits: Tensor, prepared: tuple[SamplingRows, Tensor]) -> None:
        """Subtracts in place."""
        rows, share = prepared
        ids, known = rows.history()
        logits.sub_(token_counts(rows, ids, known, logits.shape[1]).mul_(share))
