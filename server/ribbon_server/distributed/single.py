"""The group of a model that one rank holds alone."""

from torch import Tensor

from ribbon_server.distributed.sharding import ALONE, Rank


class SingleGroup:
    """World size 1: everything is here already, nothing is copied and nobody can be lost."""

    rank: Rank = ALONE

    def sum(self, tensor: Tensor) -> None:
        """`tensor` is the sum."""

    def join(self, part: Tensor) -> Tensor:
        """`part` is the whole."""
        return part

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """`tensor` is the source's."""

    def least(self, value: int) -> int:
        """`value` is the smallest."""
        return value


SINGLE = SingleGroup()
