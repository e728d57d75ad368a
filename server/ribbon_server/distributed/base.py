"""What the ranks of one model tell each other while they compute. Knows tensors and ranks; not layers, not who starts whom."""

from typing import Protocol

from torch import Tensor

from ribbon_server.distributed.sharding import Rank


class Group(Protocol):
    """Ranks that talk. Every one of them makes the same calls in the same order."""

    rank: Rank

    def sum(self, tensor: Tensor) -> None:
        """Replaces `tensor` on every rank by the sum over all ranks.

        Raises:
            RankLost: Another rank died or hangs.
        """
        ...

    def join(self, part: Tensor) -> Tensor:
        """The parts [..., size] of all ranks, joined in their order to [..., ranks * size], on every rank. Raises as `sum`."""
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """Replaces `tensor` on every rank by that of rank `source`. Raises as `sum`."""
        ...

    def least(self, value: int) -> int:
        """The smallest `value` of all ranks, on every rank. Raises as `sum`."""
        ...


class World(Group, Protocol):
    """All ranks of a model, which may stand in stages of a pipeline (sharding.place_of)."""

    stage: Rank  # the one that this rank helps to hold

    @property
    def tensor(self) -> Group:
        """Those that hold the stage together; all of them where there is one stage."""
        ...

    def send(self, stream: Tensor) -> None:
        """Gives `stream` to the same rank of the next stage. Nobody may change it any more. Returns before it has arrived.

        Raises:
            RankLost: Another rank died or hangs; that of the last call may come up here.
        """
        ...

    def receive(self, stream: Tensor) -> None:
        """Replaces `stream` by what the stage before sent. Raises as `sum`."""
        ...
