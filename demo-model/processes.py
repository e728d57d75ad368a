"""The processes that share a run, and sums over them. Knows tensors; not models."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which part of the work this process does."""

    rank: int = 0
    world_size: int = 1

    def sum_over_all(self, tensor: Tensor) -> Tensor:
        """Adds up a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor
