"""The ribbons of all groups of layers: what a plan does to them, and what each slot shows in every one of them."""

from collections.abc import Sequence

import numpy as np
import torch

from ribbon_server.device import CPU
from ribbon_server.errors import InvalidRequest, ShardError
from ribbon_server.kv.group import RibbonGroup, RibbonLimits
from ribbon_server.kv.layout import KvLayout
from ribbon_server.kv.operations import OpKind, RibbonOps

__all__ = ["VOID", "OpKind", "RibbonLimits", "RibbonOps", "Ribbons"]

VOID = -1
GIVES_UP = (OpKind.CLOSE, OpKind.TRUNCATE, OpKind.DROP)


class Ribbons:
    """One region a group over one pool of pages. Every slot is in every group."""

    def __init__(self, layouts: Sequence[KvLayout], limits: RibbonLimits, device: torch.device = CPU) -> None:
        """Reserves the regions on `device`; pages come with GROW.

        Raises:
            InvalidRequest: The machine cannot hold regions of that size.
        """
        self.device = device
        self.limits = limits
        first = RibbonGroup(layouts[0], limits, device)
        rest = [RibbonGroup(layout, limits, device, first) for layout in layouts[1:]]
        for number, group in enumerate(rest, start=1):
            group.number = number
        self.groups = (first, *rest)
        # Tokens a slot may hold now in every group, VOID where it lost an operation; and those it showed before it first grew.
        self.shown = first.shown if not rest else np.zeros_like(first.shown)
        self.begins = first.begins if not rest else np.zeros_like(first.begins)

    @property
    def pages_used(self) -> int:
        """Pages that all groups own, by our own account."""
        return sum(group.region.pages_used for group in self.groups)

    @property
    def resident_bytes(self) -> int:
        """What the kernel holds for all groups."""
        return sum(group.region.resident_bytes for group in self.groups)

    def apply(self, ops: RibbonOps) -> None:
        """Applies operations in order, each wholly or not at all; of several groups, all first give up what they do. One that
        cannot be applied voids its slot until it is closed; all others are applied, so what a plan gives up is given up
        whatever becomes of the rest.

        Raises:
            OutOfPages: The pool could not give what an operation wants.
            InvalidRequest: An operation contradicts the state of its slot or storage, or the groups disagree on a slot.
            KvMemoryLost: The machine refused a memory call; only `reset` is possible.
        """
        failure: ShardError | None = None
        for part in self._parts(ops):
            for group in self.groups:
                try:
                    group.apply(part)
                except ShardError as error:
                    failure = failure or error
        if len(self.groups) > 1:
            torn = self._unite()
            failure = failure or torn
        failure = failure or self._unknown_group(ops)
        if failure is not None:
            raise failure

    def _parts(self, ops: RibbonOps) -> Sequence[RibbonOps]:
        """The same operations in the order in which one group after the other may apply them: what one gives up, another may
        get. A slot that is opened begins behind a TRIM_FRONT of its own, which gives up nothing."""
        if len(self.groups) == 1:
            return (ops,)
        opened = ops.slot[ops.kind == OpKind.OPEN]
        gives_up = np.isin(ops.kind, GIVES_UP) | (ops.kind == OpKind.TRIM_FRONT) & ~np.isin(ops.slot, opened)
        return ops.only(gives_up), ops.only(~gives_up)

    def _unite(self) -> ShardError | None:
        """A slot holds what it holds in every group. It must have begun at the same token in all of them, void ones excepted:
        those have been told of already."""
        np.minimum.reduce([group.shown for group in self.groups], out=self.shown)
        np.minimum.reduce([group.begins for group in self.groups], out=self.begins)
        highest = np.maximum.reduce([group.begins for group in self.groups])
        torn = np.flatnonzero((self.begins != highest) & (self.shown != VOID))
        if not torn.size:
            return None
        self.shown[torn] = VOID
        slot = int(torn[0])
        return InvalidRequest(
            f"slot {slot} begins at token {int(self.begins[slot])} in one group and at {int(highest[slot])} in another"
        )

    def _unknown_group(self, ops: RibbonOps) -> ShardError | None:
        unknown = ops.group >= len(self.groups)
        if not unknown.any():
            return None
        index, last = int(unknown.argmax()), len(self.groups) - 1
        return InvalidRequest(
            f"ribbon operation {index}: group is {int(ops.group[index])}; this shard has groups 0 to {last}"
        )

    def void_slots(self) -> np.ndarray:
        """Slots that lost an operation and wait to be closed."""
        return np.flatnonzero(self.shown == VOID)

    def resize_pool(self, num_pages: int) -> None:
        """All groups together may own so many pages from now on."""
        self.groups[0].region.resize_pool(num_pages)

    def prefetch(self, ops: RibbonOps) -> None:
        """Names a coming plan's pages to the devices' mapping threads. Callable from any thread; changes no account."""
        for group in self.groups:
            group.prefetch(ops)

    def fence(self) -> None:
        """After a step's kernels are launched: pages that they may touch change hands only behind them."""
        for group in self.groups:
            group.fence()

    def reset(self) -> None:
        """Closes every slot and storage; every page goes back."""
        for group in self.groups:
            group.reset()
        self.shown[:] = 0
        self.begins[:] = 0
