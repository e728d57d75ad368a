"""Ribbon operations in the numbering of the wire, for the native module's tests."""

import numpy as np

from ribbon_server import _native

OPEN, SHARE, GROW, TRIM_FRONT, CLOSE, TRUNCATE, DROP = range(1, 8)


def apply(region: _native.Region, *operations: tuple[int, int, int, int]) -> np.ndarray:
    """Applies (kind, slot, storage, tokens) rows; returns what the named slots show then, int64 [slots]."""
    rows = np.array(operations, dtype=np.uint32).reshape(-1, 4)
    shown = np.zeros(region.num_slots, np.int64)
    region.apply(
        kind=rows[:, 0].astype(np.uint8),
        group=np.zeros(len(rows), np.uint8),
        slot=rows[:, 1].copy(),
        storage=rows[:, 2].copy(),
        tokens=rows[:, 3].copy(),
        number=0,
        shown=shown,
        begins=np.zeros_like(shown),
    )
    return shown
