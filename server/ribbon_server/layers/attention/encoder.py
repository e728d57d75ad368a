"""Attention of an encoder: every token of a prompt sees all others, and nothing is kept. Plain torch, prompt by prompt: a step that
only decodes never comes here."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.layers.attention.distance_bias import DistanceBias

TILE_QUERIES = 256  # whose scores are in memory at once


@dataclass(frozen=True)
class EncoderAttention:
    """One layer; the context's runs are whole prompts."""

    num_heads: int
    head_dim: int
    scale: float
    bias: DistanceBias | None

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer; qkv [tokens, 3 * heads * head_dim]."""
        query, key, value = qkv.view(len(qkv), 3, self.num_heads, self.head_dim).permute(1, 2, 0, 3)
        for begin, end in pairwise(context.starts.tolist()):
            keys, values = key[None, :, begin:end], value[None, :, begin:end]
            for first in range(begin, end, TILE_QUERIES):
                last = min(first + TILE_QUERIES, end)
                tile = query[None, :, first:last]
                added = self._added((first - begin, last - first, end - begin), tile)
                attended = F.scaled_dot_product_attention(tile, keys, values, attn_mask=added, scale=self.scale)
                output[first:last] = attended[0].transpose(0, 1).flatten(1)

    def _added(self, band: tuple[int, int, int], like: Tensor) -> Tensor | None:
        """[1, heads, queries, keys], of the type of `like`."""
        return None if self.bias is None else self.bias.band(*band)[None].to(like.dtype)
