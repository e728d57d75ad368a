"""Ribbon operations in the numbering of the wire, for the native module's tests."""

import numpy as np

from ribbon_server import _native
from ribbon_server.kv.operations import RibbonOps

OPEN, SHARE, GROW, TRIM_FRONT, CLOSE, TRUNCATE, DROP = range(1, 8)


def apply(region: _native.Region, *operations: tuple[int, int, int, int]) -> np.ndarray:
    """Applies (kind, slot, storage, tokens) rows; returns what the named slots show then, int64 [slots]."""
    shown = np.zeros(region.num_slots, np.int64)
    region.apply(**vars(RibbonOps.of(*operations)), number=0, shown=shown, begins=np.zeros_like(shown))
    return shown
