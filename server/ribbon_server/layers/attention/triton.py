"""Attention by our own Triton kernels: any type and head size, softcap, sinks, windows, runs of any length.

The required backend wherever FlashAttention 2 does not go. Long contexts are not split over programs, so that single rows of
many thousand tokens leave a device partly idle.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ribbon_server.layers.attention.base import AttentionShape, ForwardContext, ScoreRule
from ribbon_server.layers.attention.places import LayerTokens
from ribbon_server.layers.attention.ragged import RaggedBatch
from ribbon_server.layers.attention.triton_kernels import ragged_attention_kernel, rope_store_kernel

LARGEST_HEAD_DIM = 512
SMALLEST_DOT = 16  # rows and columns of a tensor core's tile
KEY_BYTES_PER_TILE = 16384  # of keys, and as much again of values, in shared memory
ROWS_PER_TILE = 64
SUMS_PER_TILE = 16384  # rows * head_dim, float32 in registers
HEADS_PER_PROGRAM = 8


def takes(shape: AttentionShape) -> bool:
    """Whether the kernel is built for these heads."""
    return shape.head_dim <= LARGEST_HEAD_DIM


class TritonAttention:
    """Stores a step's keys and values, then attends: two launches for short or long runs alone, three for both."""

    def __init__(self, shape: AttentionShape) -> None:
        """Takes the layer's geometry and its score rule."""
        self.shape = shape
        self._tokens = LayerTokens(shape)

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        kv = self._tokens.view(context.ribbons, qkv.dtype)
        triton_rope_store(qkv, kv, context, self.shape, query)
        triton_attention(self.shape, self.shape.rule, context.ragged, kv, query, output)


def triton_rope_store(qkv: Tensor, kv: Tensor, context: ForwardContext, shape: AttentionShape, query: Tensor) -> None:
    """A RopeStore in one launch."""
    cos, sin = context.rotations[shape.rotary]
    slots, positions = context.ragged.token_places
    total = shape.num_heads + 2 * shape.num_kv_heads
    rope_store_kernel[(len(qkv), triton.cdiv(total, HEADS_PER_PROGRAM))](
        qkv,
        cos,
        sin,
        query,
        kv,
        slots,
        positions,
        kv.stride(0),
        kv.stride(1),
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        half=cos.shape[1],
        block_heads=HEADS_PER_PROGRAM,
        block_dim=triton.next_power_of_2(shape.head_dim),
    )


def triton_attention(
    shape: AttentionShape, rule: ScoreRule, batch: RaggedBatch, kv: Tensor, query: Tensor, output: Tensor
) -> None:
    """query and output [tokens, heads * head_dim]; kv [slots, slot_tokens, 2, kv_heads, head_dim] with the step's tokens stored."""
    for group in batch.groups:
        tile = TileShape.of(shape, group.longest_run, kv.dtype)
        tiles = group.tiles(tile.tokens)
        part = group.of(query)
        in_place = isinstance(group.tokens, slice)
        attended = group.of(output) if in_place else torch.empty_like(part)
        ragged_attention_kernel[(len(tiles), shape.num_kv_heads)](
            part,
            kv,
            attended,
            rule.sinks,
            rule.slopes,
            tiles,
            group.starts,
            group.slots,
            group.lengths,
            kv.stride(0),
            kv.stride(1),
            shape.scale,
            rule.softcap or 0.0,
            shape.window or 0,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            group=shape.num_heads // shape.num_kv_heads,
            block_tokens=tile.tokens,
            block_group=tile.group,
            block_keys=tile.keys,
            block_dim=tile.dim,
            has_softcap=rule.softcap is not None,
            has_sinks=rule.sinks is not None,
            has_slopes=rule.slopes is not None,
            has_window=shape.window is not None,
            widen=not kv.is_cuda,
            num_warps=4,
            num_stages=1 if kv.dtype == torch.float32 else 2,
        )
        if not in_place:
            group.write(output, attended)


@dataclass(frozen=True)
class TileShape:
    """How much one program does; all powers of two."""

    tokens: int  # of the run
    group: int  # query heads of a kv head, rounded up
    keys: int
    dim: int

    @staticmethod
    def of(shape: AttentionShape, longest_run: int, dtype: torch.dtype) -> "TileShape":
        """For runs of up to `longest_run` tokens."""
        group = triton.next_power_of_2(shape.num_heads // shape.num_kv_heads)
        dim = max(SMALLEST_DOT, triton.next_power_of_2(shape.head_dim))
        # Two sizes alone, so that the warm-up compiles all there is.
        rows = SMALLEST_DOT if longest_run == 1 else min(ROWS_PER_TILE, SUMS_PER_TILE // dim)
        keys = max(SMALLEST_DOT, min(64, KEY_BYTES_PER_TILE // (dim * dtype.itemsize)))
        return TileShape(max(1, max(SMALLEST_DOT, rows) // group), group, keys, dim)
