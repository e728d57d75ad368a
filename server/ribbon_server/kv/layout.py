"""Where a token's keys and values lie, in bytes. Pure arithmetic: no memory, no tensors.

kv[slot, token, layer, 2, kv_head, head_dim] (design section 3): one token's layers lie together, tokens `stride` apart. A device
may keep bands of a few layers: kv[band][slot, token, layer of the band, ...], each band with its own pages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

STRIDE_ALIGNMENT = 64
WINDOW_MARGIN = 256  # tokens that the router keeps in front of a window (design section 3)
PAGE_BYTES = 4096
DEFAULT_MAX_BYTES = 4 * 2**30
DEFAULT_MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class LayerShape:
    """What one layer keeps of a token."""

    num_kv_heads: int
    head_dim: int
    vectors: int = 2  # of each head: a key and a value, or one that is both

    @property
    def elements(self) -> int:
        """Keys and values together."""
        return self.vectors * self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class KvLayout:
    """The layout of one group of layers. Layer l of a token begins `layer_offsets[l]` bytes after the token in band
    `layer_bands[l]`. Page counts are per band: every band has as many pages as the others."""

    layers: tuple[LayerShape, ...]
    itemsize: int
    layer_offsets: tuple[int, ...]
    stride_bytes: int  # of a token in one band
    layer_bands: tuple[int, ...]
    num_bands: int  # 1 where all layers of a token lie together
    page_bytes: int = PAGE_BYTES
    window: int | None = None  # tokens a query sees, its own included; None: all, so all are kept

    @property
    def page_set_bytes(self) -> int:
        """One page of every band."""
        return self.page_bytes * self.num_bands

    def slot_pages(self, slot_tokens: int) -> int:
        """Pages behind a ribbon of `slot_tokens` tokens."""
        return -(-slot_tokens * self.stride_bytes // self.page_bytes)

    def sequence_pages(self, tokens: int, fed_ahead: int) -> int:
        """Pages a sequence of `tokens` tokens may own at once; `fed_ahead` are fed before a window's front is given back."""
        if self.window is None or tokens <= (kept := self.window + WINDOW_MARGIN + fed_ahead):
            return self.slot_pages(tokens)
        return min(self.slot_pages(tokens), self.slot_pages(kept) + 1)  # what is kept may begin inside a page

    def whole_tokens(self, slot_tokens: int) -> int:
        """The least number from `slot_tokens` up that fills whole pages, so that slots lie whole tokens apart."""
        step = self.page_bytes // math.gcd(self.page_bytes, self.stride_bytes)
        return -(-slot_tokens // step) * step


def kv_layout(layers: Sequence[LayerShape], itemsize: int, *, layers_per_band: int | None = None) -> KvLayout:
    """Lays the layers of a token out one after the other, in one band or in bands of a few; the stride is that of the widest
    band, rounded up to 64 bytes."""
    size = layers_per_band or max(1, len(layers))
    offsets: list[int] = []
    widest = 0
    for first in range(0, len(layers), size):
        ends = list(accumulate(layer.elements * itemsize for layer in layers[first : first + size]))
        offsets += [0, *ends[:-1]]
        widest = max(widest, ends[-1])
    stride = -(-widest // STRIDE_ALIGNMENT) * STRIDE_ALIGNMENT
    bands = tuple(index // size for index in range(len(layers)))
    return KvLayout(tuple(layers), itemsize, tuple(offsets), stride, bands, -(-len(layers) // size))


def alike(own: KvLayout, layouts: Sequence[KvLayout]) -> KvLayout:
    """`own` with its tokens as far apart as those of the widest of `layouts`, and as many bands: a token takes the same pages then."""
    stride = max(layout.stride_bytes for layout in layouts)
    return replace(own, stride_bytes=stride, num_bands=max(layout.num_bands for layout in layouts))


def default_kv_bytes(needed: int, memory_limit: int) -> int:
    """The least of 4 GiB, 40 % of what the process may use, and what its limits can ever need."""
    return min(DEFAULT_MAX_BYTES, int(DEFAULT_MEMORY_SHARE * memory_limit), needed)
