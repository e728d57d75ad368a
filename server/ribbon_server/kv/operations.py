"""The operations of a plan on ribbons, in columns. Knows numbers and names; not memory."""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

NO_GROUP = 255  # no shard has so many


class OpKind(IntEnum):
    """Kinds of ribbon operations, numbered as on the wire."""

    OPEN = 1
    SHARE = 2
    GROW = 3
    TRIM_FRONT = 4
    CLOSE = 5
    TRUNCATE = 6
    DROP = 7


@dataclass(frozen=True)
class RibbonOps:
    """Operations in order, one column a field, all of the same length."""

    kind: np.ndarray  # uint8
    group: np.ndarray  # uint8
    slot: np.ndarray  # uint32
    storage: np.ndarray  # uint32
    tokens: np.ndarray  # uint32

    def only(self, chosen: np.ndarray) -> "RibbonOps":
        """The same columns, in which rows that are not `chosen` name no group. `chosen`: bool."""
        return replace(self, group=np.where(chosen, self.group, NO_GROUP).astype(np.uint8))

    @staticmethod
    def of(*rows: tuple[int, int, int, int], group: int = 0) -> "RibbonOps":
        """Rows of (kind, slot, storage, tokens) as columns, all for one group."""
        table = np.array(rows, np.uint32).reshape(-1, 4)
        kind, slot, storage, tokens = (np.ascontiguousarray(column) for column in table.T)
        return RibbonOps(kind.astype(np.uint8), np.full(len(rows), group, np.uint8), slot, storage, tokens)
