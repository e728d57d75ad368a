"""One step's ragged batch as index tensors on a device, for kernels that take tensors. Knows slots and lengths, no layer."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import upload


def _aligned(count: int) -> int:
    """Numbers in a column whose successor begins at a multiple of 16 bytes: Triton compiles anew for pointers that do not."""
    return -(-count // 4) * 4


class RunGroup:
    """Runs that one kernel call takes together. Tensors are made once a step and serve every layer."""

    def __init__(self, starts: np.ndarray, slots: np.ndarray, lengths: np.ndarray, device: torch.device) -> None:
        """Of each row, all int64: first and one after the last flat token [rows, 2], slot, KV tokens after this step."""
        self._device = device
        self._counts = starts[:, 1] - starts[:, 0]
        self._host_lengths = lengths
        self.longest_run = int(self._counts.max())
        self.longest_length = int(lengths.max())
        self.tokens = self._tokens(starts)  # a slice where they lie side by side, else int64 indices
        rows = len(slots)
        packed = np.zeros((3, _aligned(rows + 1)), np.int32)
        packed[0, 1 : rows + 1], packed[1, :rows], packed[2, :rows] = np.cumsum(self._counts), slots, lengths
        columns = upload(packed, device)
        self.starts = columns[0, : rows + 1]  # int32 [rows + 1]: first of the group's own tokens of each row
        self.slots = columns[1, :rows]  # int32 [rows]
        self.lengths = columns[2, :rows]  # int32 [rows]
        self._first_tokens: dict[int, Tensor] = {}
        self._tiles: dict[int, Tensor] = {}

    def first_tokens(self, tokens_per_slot: int) -> Tensor:
        """Index of each slot's first token where slots lie `tokens_per_slot` apart: int32 [rows + 1], the last one of no meaning."""
        if tokens_per_slot not in self._first_tokens:
            self._first_tokens[tokens_per_slot] = torch.cat((self.slots, self.slots[-1:])) * tokens_per_slot
        return self._first_tokens[tokens_per_slot]

    def tiles(self, tokens_per_tile: int) -> Tensor:
        """Every run cut in tiles: int32 [tiles, 2] of its row and of its first token inside the run."""
        if tokens_per_tile not in self._tiles:
            self._tiles[tokens_per_tile] = upload(self._cut(tokens_per_tile), self._device)
        return self._tiles[tokens_per_tile]

    def of(self, flat: Tensor) -> Tensor:
        """The group's rows of a tensor [tokens, ...]; a view where they lie side by side."""
        return flat[self.tokens] if isinstance(self.tokens, slice) else flat.index_select(0, self.tokens)

    def write(self, flat: Tensor, values: Tensor) -> None:
        """Puts `values` at the group's rows of `flat`."""
        if isinstance(self.tokens, slice):
            flat[self.tokens].copy_(values)
        else:
            flat.index_copy_(0, self.tokens, values)

    def _tokens(self, starts: np.ndarray) -> slice | Tensor:
        total = int(self._counts.sum())
        first = int(starts[0, 0])
        if int(starts[-1, 1]) == first + total:  # nothing of another group between them
            return slice(first, first + total)
        before = np.cumsum(self._counts) - self._counts
        return upload(np.arange(total) + np.repeat(starts[:, 0] - before, self._counts), self._device)

    def _cut(self, tokens_per_tile: int) -> np.ndarray:
        per_row = -(-self._counts // tokens_per_tile)
        rows = np.repeat(np.arange(len(per_row)), per_row)
        first = np.arange(len(rows)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
        # The longest rows start first, so that no program is left alone at the end.
        order = np.argsort(-self._host_lengths[rows], kind="stable")
        return np.stack((rows, first * tokens_per_tile), axis=1)[order].astype(np.int32)


class RaggedBatch:
    """The runs of one step. Nothing is made before a kernel asks."""

    def __init__(self, slots: np.ndarray, starts: np.ndarray, lengths: np.ndarray, device: torch.device) -> None:
        """slots uint32 [rows]; starts uint32 [rows + 1] into the flat tokens; lengths uint32 [rows] after this step."""
        self.device = device
        self._slots = slots.astype(np.int64)
        self._lengths = lengths.astype(np.int64)
        self._starts = np.stack((starts[:-1], starts[1:]), axis=1).astype(np.int64)
        self._counts = self._starts[:, 1] - self._starts[:, 0]

    @cached_property
    def groups(self) -> tuple[RunGroup, ...]:
        """Runs of one token, then longer runs; a kind that the step does not have is left out."""
        kinds = (np.flatnonzero(self._counts == 1), np.flatnonzero(self._counts > 1))
        return tuple(
            RunGroup(self._starts[rows], self._slots[rows], self._lengths[rows], self.device)
            for rows in kinds
            if rows.size
        )

    @cached_property
    def token_places(self) -> tuple[Tensor, Tensor]:
        """Slot and position of every flat token, int64 [tokens] each."""
        total = int(self._starts[-1, 1])
        positions = np.arange(total) + np.repeat(self._lengths - self._starts[:, 1], self._counts)
        packed = np.zeros((2, _aligned(total)), np.int64)
        packed[0, :total], packed[1, :total] = np.repeat(self._slots, self._counts), positions
        places = upload(packed, self.device)
        return places[0, :total], places[1, :total]
