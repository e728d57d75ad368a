"""Ribbon operations in the numbering of the wire, for the native module's tests."""

import numpy as np

from ribbon_server import _native

OPEN, SHARE, GROW, TRIM_FRONT, CLOSE, TRUNCATE, DROP = range(1, 8)


def apply(region: _native.Region, *operations: tuple[int, int, int, int]) -> None:
    """Applies (kind, slot, storage, tokens) rows."""
    rows = np.array(operations, dtype=np.uint32).reshape(-1, 4)
    region.apply(rows[:, 0].astype(np.uint8), *(rows[:, column].copy() for column in (1, 2, 3)))
