"""Does a bridged model say over ribbons what its own code says of a sequence alone? Run once, before it is served.

It finds what nothing else tells: layers that mix neighbouring tokens, or that keep something between passes."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ribbon_server.errors import ModelNotSupported
from ribbon_server.kv.ribbons import OpKind, RibbonLimits, RibbonOps, Ribbons
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.models.bridged_decoder import BridgedDecoder

LENGTHS = (21, 16)  # tokens of two sequences
CUT = (13, 5)  # what each feeds in the first step
ALLOWED = {torch.float32: 1e-3}  # mean difference, of the spread of all logits
ALLOWED_16_BIT = 0.2


@torch.inference_mode()
def check_batches(model: Any, decoder: BridgedDecoder, vocab_size: int) -> None:
    """Feeds two sequences side by side, in two steps.

    Raises:
        ModelNotSupported: Their logits are not those of each sequence alone.
    """
    generator = torch.Generator().manual_seed(3)
    sequences = [torch.randint(0, vocab_size, (length,), generator=generator).to(decoder.device) for length in LENGTHS]
    expected = torch.cat([alone(model, tokens) for tokens in sequences])
    found = torch.cat(batched(decoder, sequences))
    spread = float(expected.std())
    error = float((found - expected).abs().mean()) / max(spread, 1e-9)
    allowed = ALLOWED.get(decoder.dtype, ALLOWED_16_BIT)
    if not error <= allowed:
        raise ModelNotSupported(
            f"its answers to a batch are not those to each sequence alone (off by {error:.2g} of their spread; {allowed} is allowed)"
        )


def alone(model: Any, tokens: Tensor) -> Tensor:
    """Logits [tokens, vocab] by the model's own attention; the implementation is left as it was found."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    positions = torch.arange(len(tokens), device=tokens.device)[None]
    logits = model(input_ids=tokens[None], position_ids=positions, use_cache=False).logits[0].float()
    model.set_attn_implementation(before)
    return logits


def batched(decoder: BridgedDecoder, sequences: list[Tensor]) -> list[Tensor]:
    """Logits of each sequence's tokens, fed beside the others in two steps."""
    slots = np.arange(1, len(sequences) + 1, dtype=np.uint32)
    longest = max(LENGTHS)
    decoder.prepare(longest)
    pages = sum(layout.slot_pages(layout.whole_tokens(longest)) + 1 for layout in decoder.kv_layouts) * (len(slots) + 1)
    limits = RibbonLimits(len(slots) + 1, 2 * len(slots) + 2, longest, pages)
    ribbons = Ribbons(decoder.kv_layouts, limits, decoder.device)
    ribbons.apply(opened(slots, longest, len(decoder.kv_layouts)))
    begins = np.zeros(len(slots), np.int64)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    for ends in (np.array(CUT), np.array(LENGTHS)):
        for part, logits in zip(parts, _step(decoder, ribbons, sequences, (slots, begins, ends)), strict=True):
            part.append(logits)
        begins = ends
    return [torch.cat(part) for part in parts]


def _step(
    decoder: BridgedDecoder, ribbons: Ribbons, sequences: list[Tensor], rows: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> list[Tensor]:
    """Feeds tokens [begin, end) of each sequence; `rows` are slots, begins and ends."""
    slots, begins, ends = rows
    counts = (ends - begins).tolist()
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)
    bounds = list(zip(begins.tolist(), ends.tolist(), strict=True))
    tokens = torch.cat([tokens[begin:end] for tokens, (begin, end) in zip(sequences, bounds, strict=True)])
    positions = torch.cat([torch.arange(begin, end) for begin, end in bounds]).to(tokens.device)
    context = ForwardContext(ribbons, slots, starts, ends.astype(np.uint32))
    logits = decoder.forward(tokens, positions, context, torch.arange(len(tokens), device=tokens.device))
    if logits is None:
        raise AssertionError("every token wants logits")
    return list(logits.split(counts))


def opened(slots: np.ndarray, tokens: int, num_groups: int) -> RibbonOps:
    """Slots with storages of their own number and room for `tokens`, in every group."""
    rows = len(slots)
    nothing = np.zeros_like(slots)
    kind = np.repeat(np.array([OpKind.OPEN, OpKind.GROW], np.uint8), rows)
    ends = np.concatenate((nothing, np.full_like(slots, tokens)))
    columns = [np.tile(slots, 2), np.concatenate((slots, nothing)), ends]
    group = np.repeat(np.arange(num_groups, dtype=np.uint8), 2 * rows)
    return RibbonOps(np.tile(kind, num_groups), group, *(np.tile(column, num_groups) for column in columns))
