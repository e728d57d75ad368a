"""Attention over spans of ribbons in plain torch, many rows in one call: keys are gathered and padded to the longest span. Knows
slots and spans; not why a query sees what it sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server.device import upload
from ribbon_server.layers.attention.distance_bias import DistanceBias

TILE_QUERIES = 256  # of one row, whose scores are in memory at once


@dataclass(frozen=True)
class Spans:
    """Which tokens of its own slot each row's queries see."""

    slots: np.ndarray  # uint32 [rows]
    starts: np.ndarray  # uint32 [rows + 1]: first flat token of each row
    begins: np.ndarray  # int64 [rows]
    ends: np.ndarray  # int64 [rows]: one behind the last
    is_causal: bool  # the queries are the span's last tokens, and see none behind their own


@dataclass(frozen=True)
class KeyBlock:
    """Rows with equally many queries, and what these see."""

    queries: Tensor  # int64 [rows, run]: flat tokens
    slots: Tensor  # int64 [rows, 1]
    positions: Tensor  # int64 [rows, keys]: where the keys lie; behind a row's last one, that one again
    added: Tensor  # [rows, heads or 1, run, keys]: joins the scores; -inf where a query does not see a key

    def attend(self, query: Tensor, kv: Tensor, scale: float, output: Tensor) -> None:
        """query [tokens, heads, head_dim] over kv [slots, slot_tokens, 2, heads, head_dim]; writes the block's rows of output
        [tokens, heads * head_dim]."""
        keys, values = kv[self.slots, self.positions].permute(2, 0, 3, 1, 4)  # [rows, heads, keys, head_dim] each
        queries = query[self.queries].transpose(1, 2)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self.added, scale=scale)
        output[self.queries.flatten()] = attended.transpose(1, 2).flatten(2).flatten(0, 1)


def key_blocks(spans: Spans, bias: DistanceBias | None, like: Tensor) -> list[KeyBlock]:
    """All rows with one query as one block, longer runs tile by tile; made once a step for all layers, of the type and on the
    device of `like`."""
    counts = np.diff(spans.starts.astype(np.int64))
    return [_block(spans, rows, tile, bias, like) for rows, tile in _tiles(counts)]


def _tiles(counts: np.ndarray) -> Iterator[tuple[np.ndarray, range]]:
    """Rows, and which of the queries of each of them."""
    single = np.flatnonzero(counts == 1)
    if single.size:
        yield single, range(1)
    for row in np.flatnonzero(counts > 1).tolist():
        for first in range(0, counts[row], TILE_QUERIES):
            yield np.array([row]), range(first, min(first + TILE_QUERIES, int(counts[row])))


def _block(spans: Spans, rows: np.ndarray, tile: range, bias: DistanceBias | None, like: Tensor) -> KeyBlock:
    flat = spans.starts[rows].astype(np.int64)[:, None] + np.array(tile)
    begins, ends = spans.begins[rows, None], spans.ends[rows, None]
    keys = begins + np.arange(int((ends - begins).max()))
    offsets = (keys - ends + 1)[:, None, :]  # behind the span's last token; [rows, run, keys] from here on
    if spans.is_causal:
        behind = spans.starts[rows + 1].astype(np.int64)[:, None] - 1 - flat  # tokens behind each query
        offsets = offsets + behind[:, :, None]
    return KeyBlock(
        queries=upload(flat, like.device),
        slots=upload(spans.slots[rows, None].astype(np.int64), like.device),
        positions=upload(np.minimum(keys, ends - 1), like.device),
        added=_added(upload(offsets, like.device), bias).to(like.dtype),
    )


def _added(offsets: Tensor, bias: DistanceBias | None) -> Tensor:
    """[rows, heads or 1, run, keys] for offsets [rows, run, keys] of keys behind what their queries see last."""
    added = torch.zeros_like(offsets, dtype=torch.float32)[None] if bias is None else bias.at(offsets.clamp(max=0))
    return added.masked_fill(offsets > 0, float("-inf")).transpose(0, 1)
