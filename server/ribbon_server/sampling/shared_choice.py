"""One rank samples and the others take its word: a table of token ids and faults. Knows rows and ranks, no sequence."""

import numpy as np
import torch
from torch import Tensor

from ribbon_server.distributed.base import Group
from ribbon_server.sampling.sampler import Picker, Picks
from ribbon_server.sampling.state import SamplingRows

SAMPLING_RANK = 0


class SharedChoice:
    """Picks on one rank. The others learn what was picked and where it failed; nothing of its logprobs."""

    def __init__(self, pick: Picker, group: Group) -> None:
        """`pick` is called on the sampling rank alone."""
        self._pick = pick
        self._group = group

    def __call__(self, logits: Tensor, rows: SamplingRows) -> Picks:
        """See sampler.pick. The last call among the ranks in a step.

        Raises:
            RankLost: Another rank died or hangs.
        """
        if self._group.rank.index != SAMPLING_RANK:
            return self.told(len(logits))
        picks = self._pick(logits, rows)
        table = np.stack((picks.token_id.astype(np.int32), picks.fault.astype(np.int32)), axis=1)
        self._group.broadcast(torch.from_numpy(table), SAMPLING_RANK)
        return picks

    def agree(self, faults: np.ndarray) -> None:
        """Replaces the `faults` that this rank found, uint8 [rows], by those of the sampling rank, which sees all. Raises as a
        call."""
        self._group.broadcast(torch.from_numpy(faults), SAMPLING_RANK)

    def told(self, num_rows: int) -> Picks:
        """What the sampling rank picked for so many rows. Raises as a call."""
        table = np.zeros((num_rows, 2), np.int32)
        self._group.broadcast(torch.from_numpy(table), SAMPLING_RANK)
        return Picks(
            token_id=table[:, 0].astype(np.uint32),
            logprob=np.zeros(num_rows, np.float32),
            top_count=np.zeros(num_rows, np.uint32),
            top_token_id=np.zeros((num_rows, 1), np.uint32),
            top_logprob=np.zeros((num_rows, 1), np.float32),
            fault=table[:, 1].astype(np.uint8),
        )
