"""Adds a request's own bias to single tokens. OpenAI API reference, `logit_bias`."""

import numpy as np
from torch import Tensor

from ribbon_server.sampling.state import SamplingRows


class LogitBias:
    """A token named twice gets the sum."""

    ORDER = 500

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where a bias was given."""
        return rows.state.bias_ids.counts[rows.slots] > 0

    def prepare(self, rows: SamplingRows) -> tuple[Tensor, Tensor]:
        """Ids and values [rows, longest]; the padding adds 0 to token 0."""
        state = rows.state
        return rows.tensor(state.bias_ids.rows(rows.slots)), rows.tensor(state.bias_values.rows(rows.slots))

    def apply(self, logits: Tensor, prepared: tuple[Tensor, Tensor]) -> None:
        """Adds in place."""
        ids, values = prepared
        logits.scatter_add_(1, ids, values)
