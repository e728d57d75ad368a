"""OpenAI's presence penalty: once for each token that was generated before. OpenAI API reference, `presence_penalty`."""

import numpy as np
from torch import Tensor

from ribbon_server.sampling.processors.base import generated_counts
from ribbon_server.sampling.state import SamplingRows


class Presence:
    """Counts from the end of the prompt."""

    ORDER = 300

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where the penalty is not 0 and something was generated."""
        return (rows.params["presence_penalty"] != 0.0) & (rows.known > rows.prompt)

    def prepare(self, rows: SamplingRows) -> tuple[SamplingRows, Tensor]:
        """The rows and their penalties [rows, 1]."""
        return rows, rows.column(rows.params["presence_penalty"])

    def apply(self, logits: Tensor, prepared: tuple[SamplingRows, Tensor]) -> None:
        """Subtracts in place."""
        rows, penalty = prepared
        logits.sub_(generated_counts(rows, logits.shape[1]).clamp_(max=1.0).mul_(penalty))
