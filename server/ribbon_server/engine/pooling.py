"""The final states of prompts, pooled into one vector each, over as many chunks as they come in. Knows slots; not what vectors mean."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import upload


@dataclass(frozen=True)
class PooledTokens:
    """Tokens whose final states are pooled, and the batch's rows they belong to."""

    flat: np.ndarray  # int64 [pooled tokens], rising
    of: np.ndarray  # int64 [pooled tokens]: which of `rows`
    rows: np.ndarray  # int64 [pooling]: which of the batch's rows
    counts: np.ndarray  # int64 [pooling]: tokens of each
    ends: np.ndarray  # bool [pooling]: the vector is due


def pool(states: Tensor, tokens: PooledTokens) -> Tensor:
    """Sums of the states [pooled tokens, hidden] of each row: float32 [pooling, hidden]."""
    sums = states.new_zeros((len(tokens.rows), states.shape[1]), dtype=torch.float32)
    return sums.index_add_(0, upload(tokens.of, states.device), states.float())


class Pools:
    """What was pooled of each slot's sequence so far: a float32 sum and the number of tokens in it (design section 2, rule o)."""

    def __init__(self, num_slots: int) -> None:
        """Nothing was."""
        self._count = np.zeros(num_slots, np.int64)
        self._sum = torch.zeros(0)  # [slots, hidden], once a sequence is pooled

    def forget(self, slots: np.ndarray) -> None:
        """The slots have no sequence any more."""
        self._count[slots] = 0

    def add(self, slots: np.ndarray, sums: Tensor, counts: np.ndarray) -> None:
        """The slots' sequences got sums [rows, hidden] of so many more tokens; a slot is there once."""
        if not self._sum.numel():
            self._sum = sums.new_zeros((len(self._count), sums.shape[1]))
        at = upload(slots, sums.device)
        has_sum = upload(self._count[slots] > 0, sums.device)[:, None]
        self._sum[at] = sums + self._sum[at].where(has_sum, 0.0)
        self._count[slots] += counts

    def means(self, slots: np.ndarray) -> np.ndarray:
        """The slots' vectors: float32 [rows, hidden]."""
        table = self._sum[upload(slots, self._sum.device)].cpu().numpy()
        return np.asarray(table / self._count[slots, None].astype(np.float32))
