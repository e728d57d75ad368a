"""Checks at the start that the flash operator does over ribbons what we use it for. Knows a tiny made-up region, no model."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ribbon_server.kv.ribbons import Ribbons
from ribbon_server.layers.attention.base import AttentionShape, ForwardContext
from ribbon_server.layers.attention.flash import FlashOperator, flash_runs
from ribbon_server.layers.attention.ragged import RaggedBatch
from ribbon_server.layers.attention.store import RopeStore, torch_rope_store
from ribbon_server.layers.rotary import Angles, RotaryTable, frequencies

SLOTS, SLOT_TOKENS = 5, 600
ROWS = (
    (3, 1, 577),
    (1, 40, 300),
    (4, 1, 1),
    (2, 130, 130),
)  # slot, run, length: decodes, a chunk behind a past, a whole prompt
LAYERS_BETWEEN = 3  # the layer under test is the middle one of so many in a token
TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}  # largest error of outputs that are about 1
# Of numbers up to 5: one place of the type, where the two round to different sides.
STORE_TOLERANCE = {torch.bfloat16: 4e-2, torch.float16: 4e-3, torch.float32: 1e-5}


@dataclass(frozen=True)
class SelfTest:
    """What came out."""

    largest_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False also where the operator returned NaN."""
        return self.largest_error <= self.tolerance


def check_flash(
    operator: FlashOperator,
    shape: AttentionShape,
    dtype: torch.dtype,
    device: torch.device,
    slot_tokens: int = SLOT_TOKENS,
) -> SelfTest:
    """Compares the operator with plain float32 attention; the tokens behind each row's last are NaN."""
    query, kv = made_up(shape, dtype, device, slot_tokens)
    batch = made_up_batch(device)
    output = torch.full_like(query, float("nan"))
    for group in batch.groups:
        group.write(output, flash_runs(operator, shape, group, group.of(query), kv))
    return SelfTest(largest_error(output, shape, query, kv), TOLERANCE[dtype])


def check_rope_store(
    rope_store: RopeStore, shape: AttentionShape, dtype: torch.dtype, device: torch.device
) -> SelfTest:
    """Compares one launch with plain torch: the query, and every byte of the region."""
    _, region = made_up(shape, dtype, device)
    context = _context(shape, device)
    tokens = sum(run for _, run, _ in ROWS)
    width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    qkv = torch.randn((tokens, width), generator=torch.Generator().manual_seed(2)).to(dtype).to(device)
    results = []
    for store in (rope_store, torch_rope_store):
        kv = region.nan_to_num(nan=3.0)
        query = torch.empty_like(qkv[:, : shape.num_heads * shape.head_dim])
        store(qkv, kv, context, shape, query)
        results.append((query.float(), kv.float()))
    errors = [(ours - plain).abs().max().nan_to_num(nan=float("inf")) for ours, plain in zip(*results, strict=True)]
    return SelfTest(float(torch.stack(errors).max()), STORE_TOLERANCE[dtype])


def _context(shape: AttentionShape, device: torch.device) -> ForwardContext:
    """Of the made-up rows, with a rotary table over the whole head."""
    slots, runs, lengths = (np.array(column, np.uint32) for column in zip(*ROWS, strict=True))
    starts = np.concatenate(([0], np.cumsum(runs))).astype(np.uint32)
    context = ForwardContext(cast(Ribbons, _NoRibbons(device)), slots, starts, lengths)
    table = RotaryTable(Angles(frequencies(10_000.0, shape.head_dim)), shape.head_dim, SLOT_TOKENS, device)
    context.rotations = [table.at(context.ragged.token_places[1])] * (shape.rotary + 1)
    return context


@dataclass(frozen=True)
class _NoRibbons:
    """Says where the batch's tensors go; the region under test is a plain tensor."""

    device: torch.device


def made_up(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, slot_tokens: int = SLOT_TOKENS
) -> tuple[Tensor, Tensor]:
    """Random query [tokens, heads, head_dim] and kv [slots, slot_tokens, 2, kv_heads, head_dim] of the middle layer."""
    generator = torch.Generator().manual_seed(1)
    size = (SLOTS, slot_tokens, LAYERS_BETWEEN, 2, shape.num_kv_heads, shape.head_dim)
    layer = torch.empty(size, dtype=dtype, device=device)[:, :, LAYERS_BETWEEN // 2]
    layer[:, :SLOT_TOKENS].fill_(float("nan"))
    for slot, _, length in ROWS:
        layer[slot, :length].copy_(torch.randn(layer[slot, :length].shape, generator=generator))
    tokens = sum(run for _, run, _ in ROWS)
    query = torch.randn((tokens, shape.num_heads, shape.head_dim), generator=generator)
    return query.to(dtype).to(device), layer


def made_up_batch(device: torch.device) -> RaggedBatch:
    """The rows that `made_up` is for."""
    slots, runs, lengths = (np.array(column, np.uint32) for column in zip(*ROWS, strict=True))
    return RaggedBatch(slots, np.concatenate(([0], np.cumsum(runs))).astype(np.uint32), lengths, device)


def largest_error(output: Tensor, shape: AttentionShape, query: Tensor, kv: Tensor) -> float:
    """Of `output` against plain attention; infinite where it is NaN. Waits for the device."""
    error = (output.float() - _expected(shape, query.float(), kv)).abs().max()
    return float(error.nan_to_num(nan=float("inf")))


def _expected(shape: AttentionShape, query: Tensor, kv: Tensor) -> Tensor:
    """Row by row, float32."""
    group = shape.num_heads // shape.num_kv_heads
    results, begin = [], 0
    for slot, run, length in ROWS:
        keys, values = (part.float().repeat_interleave(group, dim=1) for part in kv[slot, :length].unbind(1))
        scores = torch.einsum("qhd,thd->hqt", query[begin : begin + run], keys) * shape.scale
        last = torch.arange(length - run, length, device=kv.device)[:, None]
        key = torch.arange(length, device=kv.device)
        hidden = key > last
        if shape.window is not None:
            hidden |= key <= last - shape.window
        results.append(torch.einsum("hqt,thd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), values))
        begin += run
    return torch.cat(results)
