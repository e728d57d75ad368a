"""Masks stop tokens until enough tokens were generated, or the grammar allows no others. Last, so that no bias brings them back."""

import numpy as np
from torch import Tensor

from ribbon_server.sampling.state import SamplingRows


class MinTokens:
    """Stop tokens get no chance at all."""

    ORDER = 600

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where too few tokens were generated and there is something to mask and something left."""
        too_few = rows.known - rows.prompt < rows.params["min_tokens"]
        active = too_few & (rows.state.stops.counts[rows.slots] > 0)
        return active & ~rows.state.only_stops(rows.slots) if active.any() else active

    def prepare(self, rows: SamplingRows) -> Tensor:
        """Stop token ids [rows, longest], padded with the row's own first one."""
        ids = rows.state.stops.rows(rows.slots)
        return rows.tensor(np.where(ids >= 0, ids, ids[:, :1]))

    def apply(self, logits: Tensor, prepared: Tensor) -> None:
        """Masks in place."""
        logits.scatter_(1, prepared, float("-inf"))
