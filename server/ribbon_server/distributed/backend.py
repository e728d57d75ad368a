"""What gloo and NCCL have in common: one model's ranks over a backend of torch. Knows tensors and ranks; not layers, not who starts
whom."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import FileStore, PrefixStore, ReduceOp, Store

from ribbon_server.distributed.base import Group
from ribbon_server.distributed.sharding import Rank, place_of
from ribbon_server.distributed.single import SINGLE
from ribbon_server.errors import RankLost

TAG = 0  # of what stages send; they send one thing

Result = TypeVar("Result")


@dataclass(frozen=True)
class Meeting:
    """How the ranks of one start find each other."""

    point: Path  # a new or empty file that nobody else reads; it has to stay as long as the ranks do
    timeout: timedelta  # of the meeting, and of every later call
    num_stages: int = 1


class BackendGroup:
    """Ranks that talk over one backend."""

    def __init__(self, rank: Rank, device: torch.device, connect: Callable[[], Any]) -> None:
        """`connect` waits until all ranks are there. Tensors lie on `device`; small ones from elsewhere go through it.

        Raises:
            RankLost: Not all came in time.
        """
        self.rank = rank
        self._device = device
        self._backend = self._guard(connect)

    def sum(self, tensor: Tensor) -> None:
        """See Group."""
        self._guard(lambda: self._backend.allreduce([tensor]).wait())

    def join(self, part: Tensor) -> Tensor:
        """See Group."""
        parts = [torch.empty_like(part) for _ in range(self.rank.world_size)]
        self._guard(lambda: self._backend.allgather([parts], [part]).wait())
        return torch.cat(parts, dim=-1)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """See Group."""
        there = tensor.to(self._device)
        self._guard(lambda: self._backend.broadcast(there, source).wait())
        if there is not tensor:
            tensor.copy_(there)

    def least(self, value: int) -> int:
        """See Group."""
        values = torch.tensor([value], device=self._device)
        self._guard(lambda: self._backend.allreduce([values], ReduceOp.MIN).wait())
        return int(values)

    def _guard(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except RuntimeError as error:  # what a backend makes of a closed connection and of a limit that is over
            raise RankLost(f"rank {self.rank.index} of {self.rank.world_size} lost another rank: {error}") from error


class BackendWorld(BackendGroup):
    """All ranks of a model; those of each stage of a pipeline have a group of their own besides."""

    def __init__(
        self, rank: Rank, meeting: Meeting, device: torch.device, connect: Callable[[Store, Rank], Any]
    ) -> None:
        """`connect` makes a backend of the ranks that share a store. Waits until all ranks are there.

        Raises:
            BadSetting: The ranks do not make so many equal stages.
            RankLost: Not all came in time.
        """
        place = place_of(rank, meeting.num_stages)
        store = FileStore(str(meeting.point), rank.world_size)
        store.set_timeout(meeting.timeout)
        super().__init__(rank, device, lambda: connect(PrefixStore("world", store), rank))
        self.stage = place.stage
        self.tensor: Group = self
        if meeting.num_stages > 1:
            own = PrefixStore(f"stage {place.stage.index}", store)
            is_alone = place.tensor.world_size == 1
            self.tensor = SINGLE if is_alone else BackendGroup(place.tensor, device, lambda: connect(own, place.tensor))
        self._num_neighbours = place.tensor.world_size
        self._under_way: tuple[Any, Tensor] | None = None

    def send(self, stream: Tensor) -> None:
        """See World. One stream is under way at a time; it is kept until it has arrived."""
        self._guard(self._wait_for_the_last)
        next_stage = self.rank.index - self._num_neighbours
        work = self._guard(lambda: self._backend.send([stream], next_stage, TAG))
        self._under_way = work, stream

    def receive(self, stream: Tensor) -> None:
        """See World."""
        stage_before = self.rank.index + self._num_neighbours
        self._guard(lambda: self._backend.recv([stream], stage_before, TAG).wait())

    def connect_all(self) -> None:
        """Has the ranks of a stage talk, then the stages: a backend that connects with the first call connects now. Raises RankLost."""
        self.tensor.least(0)
        word = torch.zeros(1, device=self._device)
        if not self.stage.is_first:
            self.receive(word)
        if not self.stage.is_last:
            self.send(word)
        self.least(0)

    def _wait_for_the_last(self) -> None:
        if self._under_way is not None:
            self._under_way[0].wait()
            self._under_way = None
