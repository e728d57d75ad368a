"""Masks what a sequence's grammar does not allow. After every bias, so that none brings a token back."""

import numpy as np
from torch import Tensor

from ribbon_server.sampling.grammars import Grammars
from ribbon_server.sampling.state import SamplingRows


class GrammarMask:
    """Masks are made while the forward pass runs; this waits for what is left of that."""

    ORDER = 550

    def is_active(self, rows: SamplingRows) -> np.ndarray:
        """Where there is a grammar."""
        return rows.state.has_grammar(rows.slots)

    def prepare(self, rows: SamplingRows) -> tuple[Grammars, np.ndarray]:
        """The masks are by slot."""
        assert rows.state.grammars is not None  # some row is active
        return rows.state.grammars, rows.slots

    def apply(self, logits: Tensor, prepared: tuple[Grammars, np.ndarray]) -> None:
        """Masks in place."""
        grammars, slots = prepared
        grammars.apply(logits, slots)
