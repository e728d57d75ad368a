"""The group of a model that one rank holds alone."""

from typing import NoReturn

from torch import Tensor

from ribbon_server.distributed.sharding import ALONE, Rank


class SingleGroup:
    """World size 1: everything is here already, nothing is copied and nobody can be lost."""

    rank: Rank = ALONE
    stage: Rank = ALONE

    @property
    def tensor(self) -> "SingleGroup":
        """The stage is the model."""
        return self

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

    def send(self, stream: Tensor) -> NoReturn:  # noqa: ARG002
        """No stage is next."""
        raise AssertionError("the only stage is the last one")

    def receive(self, stream: Tensor) -> NoReturn:  # noqa: ARG002
        """No stage is before."""
        raise AssertionError("the only stage is the first one")


SINGLE = SingleGroup()
