"""The operations of a plan on ribbons, in columns. Knows numbers and names; not memory."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


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
