"""Reads MXFP4 weights as if they had been saved in bfloat16. Knows their format and no model.

Of a weight `x`, which would lie [..., in, out], the checkpoint has `x_blocks` uint8 [..., out, in / 32, 16] and `x_scales` uint8
[..., out, in / 32]: 32 four-bit numbers a block, the lower half of a byte first, and the power of two that they share, 127 above its
exponent. https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf, section 5.3.3
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server.errors import WeightsMismatch
from ribbon_server.models.checkpoint import Checkpoint
from ribbon_server.models.hf_config import HfConfig

BLOCKS, SCALES = "_blocks", "_scales"
BLOCK_BYTES = 16
POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NUMBERS = torch.tensor(POSITIVE + tuple(-number for number in POSITIVE))  # of each four bits, the sign highest
PAIRS = torch.stack((NUMBERS.repeat(16), NUMBERS.repeat_interleave(16)), dim=1)  # of each byte, [256, 2]
POWERS = torch.tensor([2.0 ** (byte - 127) for byte in range(255)] + [float("nan")])[:, None]  # of each scale, [256, 1]


def decoded(blocks: Tensor, scales: Tensor) -> Tensor:
    """blocks uint8 [..., count, 16] and scales uint8 [..., count] to bfloat16 [..., count * 32], exactly."""
    numbers = F.embedding(blocks.int(), PAIRS).flatten(-2)  # [..., count, 32]
    return (numbers * F.embedding(scales.int(), POWERS)).to(torch.bfloat16).flatten(-2)


def unpacked(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, of plain numbers where its configuration says that weights are MXFP4."""
    section = checkpoint.config.section("quantization_config")
    is_packed = section is not None and section.text("quant_method", "") == "mxfp4"
    return Mxfp4Checkpoint(checkpoint) if is_packed else checkpoint


class Mxfp4Checkpoint:
    """A checkpoint in which blocks and scales are one tensor, decoded whenever it is read."""

    def __init__(self, packed: Checkpoint) -> None:
        """Reads headers alone.

        Raises:
            WeightsMismatch: Blocks and scales do not fit each other.
        """
        self._packed = packed
        self.config: HfConfig = packed.config
        self.tokenizer_files: Mapping[str, Path] = packed.tokenizer_files
        found = packed.names()
        stems = {name.removesuffix(BLOCKS) for name in found if name.endswith(BLOCKS)}
        self._shapes = {stem: self._shape(stem) for stem in stems if stem + SCALES in found}
        self._names = found - {stem + part for stem in self._shapes for part in (BLOCKS, SCALES)} | set(self._shapes)

    def names(self) -> frozenset[str]:
        """Of decoded and of plain tensors."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """As it was before it was packed."""
        return self._shapes[name] if name in self._shapes else self._packed.shape(name)

    def dtype_name(self, name: str) -> str:
        """bfloat16 holds every decoded number."""
        return "BF16" if name in self._shapes else self._packed.dtype_name(name)

    def read(self, name: str) -> Tensor:
        """Decodes all of a packed tensor; a plain one is a view of its file."""
        if name not in self._shapes:
            return self._packed.read(name)
        blocks, scales = (self._packed.read(name + part) for part in (BLOCKS, SCALES))
        numbers = torch.empty((*scales.shape[:-1], scales.shape[-1] * 2 * BLOCK_BYTES), dtype=torch.bfloat16)
        for part, own_blocks, own_scales in zip(numbers, blocks, scales, strict=True):  # one expert's numbers at a time
            part.copy_(decoded(own_blocks, own_scales))
        return numbers.transpose(-1, -2)

    def _shape(self, stem: str) -> tuple[int, ...]:
        blocks, scales = (self._packed.shape(stem + part) for part in (BLOCKS, SCALES))
        kinds = {self._packed.dtype_name(stem + part) for part in (BLOCKS, SCALES)}
        if blocks != (*scales, BLOCK_BYTES) or len(scales) < 2 or kinds != {"U8"}:
            raise WeightsMismatch(
                f"{stem}{BLOCKS} has shape {list(blocks)} and {stem}{SCALES} {list(scales)}, of {', '.join(sorted(kinds))}; MXFP4 has "
                f"uint8 scales of at least two dimensions, and {BLOCK_BYTES} bytes of blocks for each"
            )
        *outer, rows, count = scales
        return (*outer, count * 2 * BLOCK_BYTES, rows)
