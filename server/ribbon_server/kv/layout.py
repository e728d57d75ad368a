"""Where a token's keys and values lie, in bytes. Pure arithmetic: no memory, no tensors.

kv[slot, token, layer, 2, kv_head, head_dim] (design section 3): one token's layers lie together, tokens `stride` apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

STRIDE_ALIGNMENT = 64
PAGE_BYTES = 4096
DEFAULT_MAX_BYTES = 4 * 2**30
DEFAULT_MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class LayerShape:
    """What one layer keeps of a token."""

    num_kv_heads: int
    head_dim: int

    @property
    def elements(self) -> int:
        """Keys and values together."""
        return 2 * self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class KvLayout:
    """The layout of one group of layers. Layer l of a token begins `layer_offsets[l]` bytes after the token."""

    layers: tuple[LayerShape, ...]
    itemsize: int
    layer_offsets: tuple[int, ...]
    stride_bytes: int

    def slot_pages(self, slot_tokens: int) -> int:
        """Pages behind a ribbon of `slot_tokens` tokens."""
        return -(-slot_tokens * self.stride_bytes // PAGE_BYTES)


def kv_layout(layers: Sequence[LayerShape], itemsize: int) -> KvLayout:
    """Lays the layers of a token out one after the other, the stride rounded up to 64 bytes."""
    ends = list(accumulate(layer.elements * itemsize for layer in layers))
    stride = -(-ends[-1] // STRIDE_ALIGNMENT) * STRIDE_ALIGNMENT
    return KvLayout(tuple(layers), itemsize, (0, *ends[:-1]), stride)


def default_kv_bytes(needed: int, memory_limit: int) -> int:
    """The least of 4 GiB, 40 % of what the process may use, and what its limits can ever need."""
    return min(DEFAULT_MAX_BYTES, int(DEFAULT_MEMORY_SHARE * memory_limit), needed)
