"""Ribbon operations for kernel benchmarks: rows in, the native region's columns out. Knows the wire's numbering."""

from collections.abc import Callable

import numpy as np

from ribbon_server import _native


def prepared(region: _native.Region, *operations: tuple[int, int, int, int]) -> Callable[[], None]:
    """A call that applies (kind, slot, storage, tokens) rows; its columns are made beforehand."""
    rows = np.array(operations, np.uint32).reshape(-1, 4)
    columns = {name: rows[:, column].copy() for column, name in enumerate(("slot", "storage", "tokens"), 1)}
    kind, group = rows[:, 0].astype(np.uint8), np.zeros(len(rows), np.uint8)
    shown = np.zeros(region.num_slots, np.int64)
    begins = np.zeros_like(shown)
    return lambda: region.apply(kind=kind, group=group, number=0, shown=shown, begins=begins, **columns)


def apply(region: _native.Region, *operations: tuple[int, int, int, int]) -> None:
    """Applies (kind, slot, storage, tokens) rows."""
    prepared(region, *operations)()
