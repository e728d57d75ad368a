"""What the distance between a query and a key adds to their scores: a learned number for each head and bucket of distances.
https://arxiv.org/abs/1910.10683, section 2.1. Knows distances; not whose tokens they separate."""

import math
from enum import Enum

import torch
from torch import Tensor


class Sight(Enum):
    """Which keys a query sees."""

    BOTH_WAYS = "both_ways"  # half of the buckets are for keys behind it
    BACK = "back"  # its own and those before it


def distance_buckets(offsets: Tensor, buckets: int, max_distance: int, sight: Sight) -> Tensor:
    """The bucket of keys that stand `offsets` tokens behind their query, int64 as the offsets are.

    Of those of one direction, the first half are a distance each; in the others the distance grows by a constant factor up to
    `max_distance`, and the last one has all that lie farther.
    """
    first = torch.zeros_like(offsets)
    distance = (-offsets).clamp(min=0)
    if sight is Sight.BOTH_WAYS:
        buckets //= 2
        first = (offsets > 0).long() * buckets
        distance = offsets.abs()
    exact = buckets // 2
    # In the order of operations that models were trained with: bounds of buckets depend on the rounding.
    octaves = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (octaves * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, wide)


class DistanceBias:
    """The numbers of one stack, spread over all offsets that a server meets."""

    def __init__(self, weight: Tensor, max_distance: int, sight: Sight) -> None:
        """weight [buckets, heads]. `prepare` must run before the first step."""
        self._weight = weight
        self._max_distance = max_distance
        self._sight = sight
        self._longest = 1
        self._table = weight[:1].t()  # [heads, offsets], the lowest offset first

    def prepare(self, longest: int) -> None:
        """For keys at most longest - 1 tokens away."""
        highest = longest if self._sight is Sight.BOTH_WAYS else 1
        offsets = torch.arange(1 - longest, highest, device=self._weight.device)
        of = distance_buckets(offsets, len(self._weight), self._max_distance, self._sight)
        self._table = self._weight.index_select(0, of).t().contiguous()
        self._longest = longest

    def at(self, offsets: Tensor) -> Tensor:
        """[heads, ...] for int64 offsets [...] of keys behind their queries."""
        return self._table[:, offsets + (self._longest - 1)]

    def band(self, first: int, queries: int, keys: int) -> Tensor:
        """[heads, queries, keys] for consecutive queries, the first of them `first` tokens behind the first key."""
        start = self._longest - first - queries
        # Query by query the same numbers, one place further: windows of one row, the last query's first.
        return self._table[:, start : start + queries + keys - 1].unfold(1, keys, 1).flip(1)
