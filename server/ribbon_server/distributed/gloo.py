"""The group of ranks on the CPUs of one machine, over gloo. Knows tensors and ranks; not layers, not who starts whom."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import FileStore, ProcessGroupGloo, ReduceOp

from ribbon_server.distributed.sharding import Rank
from ribbon_server.errors import RankLost

LOOPBACK = "127.0.0.1"


class GlooGroup:
    """Ranks on the CPUs of one machine. They meet in a file and talk over the loopback address, so that nobody else can join."""

    def __init__(self, rank: Rank, meeting_point: Path, timeout_seconds: float) -> None:
        """Waits until all ranks are there. `meeting_point` is a file that does not exist yet, in a private directory; the
        limit holds for this and for every later call.

        Raises:
            RankLost: Not all came in time.
        """
        self.rank = rank
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=LOOPBACK)]
        options._timeout = timedelta(seconds=timeout_seconds)
        store = FileStore(str(meeting_point), rank.world_size)
        store.set_timeout(options._timeout)
        self._gloo = self._guard(lambda: ProcessGroupGloo(store, rank.index, rank.world_size, options))

    def sum(self, tensor: Tensor) -> None:
        """See Group."""
        self._guard(lambda: self._gloo.allreduce([tensor]).wait())

    def join(self, part: Tensor) -> Tensor:
        """See Group."""
        parts = [torch.empty_like(part) for _ in range(self.rank.world_size)]
        self._guard(lambda: self._gloo.allgather([parts], [part]).wait())
        return torch.cat(parts, dim=-1)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """See Group."""
        self._guard(lambda: self._gloo.broadcast(tensor, source).wait())

    def least(self, value: int) -> int:
        """See Group."""
        values = torch.tensor([value])
        self._guard(lambda: self._gloo.allreduce([values], ReduceOp.MIN).wait())
        return int(values)

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RuntimeError as error:  # what gloo makes of a closed connection and of a limit that is over
            raise RankLost(f"rank {self.rank.index} of {self.rank.world_size} lost another rank: {error}") from error
