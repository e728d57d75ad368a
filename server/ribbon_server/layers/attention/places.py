"""Where one layer's keys and values lie in a region, as a tensor for kernels that take strides. Knows bytes, no sequence."""

import torch
from torch import Tensor

from ribbon_server.kv.ribbons import Ribbons
from ribbon_server.layers.attention.base import AttentionShape

MOST_TOKENS = 2**31  # flash attention counts the tokens of all slots in an int32


class LayerTokens:
    """The tokens of one layer in a region, as a view that is made once a region."""

    def __init__(self, shape: AttentionShape) -> None:
        """Takes the layer's geometry."""
        self._shape = shape
        self._ribbons: Ribbons | None = None
        self._view = torch.empty(0)

    def view(self, ribbons: Ribbons, dtype: torch.dtype) -> Tensor:
        """[slots, slot_tokens, 2, kv_heads, head_dim]; keys first. Only mapped tokens may be touched."""
        if self._ribbons is not ribbons:
            shape = self._shape
            start = shape.kv_offset // dtype.itemsize
            elements = 2 * shape.num_kv_heads * shape.head_dim
            part = ribbons.groups[shape.group].view(dtype, shape.band)[:, :, start : start + elements]
            self._view = part.unflatten(-1, (2, shape.num_kv_heads, shape.head_dim))
            self._ribbons = ribbons
        return self._view


def flat_tokens(kv: Tensor) -> tuple[Tensor, Tensor, int]:
    """Keys and values [slots * tokens a slot, kv_heads, head_dim] of a layer's view, and the tokens from one slot to the next.

    Raises:
        ValueError: Slots are no whole number of tokens apart, or there are too many tokens for an int32.
    """
    slots = kv.shape[0]
    per_slot, odd = divmod(kv.stride(0), kv.stride(1))
    if odd:
        raise ValueError(
            f"slots lie {kv.stride(0)} elements apart, which is no multiple of a token's {kv.stride(1)}; "
            "a region for flash attention needs whole tokens"
        )
    if slots * per_slot >= MOST_TOKENS:
        raise ValueError(
            f"{slots} slots of {per_slot} tokens are too many for one region; flash attention counts below {MOST_TOKENS} tokens, "
            "lower `--max-concurrent-requests` or `--max-total-tokens`"
        )
    size = (slots * per_slot, *kv.shape[3:])
    stride = (kv.stride(1), *kv.stride()[3:])
    keys, values = kv[:, :, 0], kv[:, :, 1]
    return (
        keys.as_strided(size, stride, keys.storage_offset()),
        values.as_strided(size, stride, values.storage_offset()),
        per_slot,
    )
