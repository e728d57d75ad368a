"""OpenAI's frequency penalty: for each time a token was generated before. OpenAI API reference, `frequency_penalty`."""

import numpy as np
from torch import Tensor

from ribbon_server.sampling.processors.base import generated_counts
from ribbon_server.sampling.state import SamplingRows


class Count:
    """Counts from the end of the prompt."""

    ORDER = 400

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where the penalty is not 0 and something was generated."""
        return (rows.params["count_penalty"] != 0.0) & (rows.known > rows.prompt)

    def prepare(self, rows: SamplingRows) -> tuple[SamplingRows, Tensor]:
        """The rows and their penalties [rows, 1]."""
        return rows, rows.column(rows.params["count_penalty"])

    def apply(self, logits: Tensor, prepared: tuple[SamplingRows, Tensor]) -> None:
        """Subtracts in place."""
        rows, penalty = prepared
        logits.sub_(generated_counts(rows, logits.shape[1]).mul_(penalty))
