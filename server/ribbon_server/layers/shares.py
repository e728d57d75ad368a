"""What makes one result of the ranks' shares of a layer: sums, joins, rows of a vocabulary. Not built where one rank is alone."""

from dataclasses import dataclass

from torch import Tensor

from ribbon_server.distributed.base import Group
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.mlp import Change


def summed(group: Group) -> Change:
    """Adds up what every rank made of its own inputs, in place."""

    def change(part: Tensor) -> Tensor:
        group.sum(part)
        return part

    return change


@dataclass(frozen=True)
class JoinedLinear:
    """A linear layer whose outputs are dealt out, the last ones padded."""

    linear: LinearLayer
    group: Group
    size: int  # of all outputs, without the padding

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, in] to [rows, size], on every rank."""
        whole = self.group.join(self.linear(x))
        return whole if whole.shape[-1] == self.size else whole[..., : self.size].contiguous()


@dataclass(frozen=True)
class OwnRows:
    """The rows of a table that this rank holds."""

    first: int
    count: int  # without the padding
    group: Group

    def look_up(self, table: Tensor, index: Tensor) -> Tensor:
        """Rows `index`, int64 [rows], of the whole table, of which `table` [own, width] is this rank's share."""
        at = index - self.first
        is_elsewhere = (at < 0) | (at >= self.count)
        rows = table.index_select(0, at.masked_fill_(is_elsewhere, 0))
        rows.masked_fill_(is_elsewhere[:, None], 0.0)
        self.group.sum(rows)
        return rows
