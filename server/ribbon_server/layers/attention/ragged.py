"""One step's ragged batch as index tensors on a device, for kernels that take tensors. Knows slots and lengths, no layer."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RunGroup:
    """Runs that one kernel call takes together."""

    tokens: slice | Tensor  # their flat tokens, in order; a slice where they lie side by side, else int64 indices
    starts: Tensor  # int32 [rows + 1]: first of the group's own tokens of each row
    slots: Tensor  # int32 [rows]
    lengths: Tensor  # int32 [rows]: KV tokens after this step's are stored
    longest_run: int
    longest_length: int
    _first_tokens: dict[int, Tensor] = field(default_factory=dict)

    def first_tokens(self, tokens_per_slot: int) -> Tensor:
        """Index of each slot's first token where slots lie `tokens_per_slot` apart: int32 [rows + 1], the last one of no meaning."""
        if tokens_per_slot not in self._first_tokens:
            self._first_tokens[tokens_per_slot] = torch.cat((self.slots, self.slots[-1:])) * tokens_per_slot
        return self._first_tokens[tokens_per_slot]

    def of(self, flat: Tensor) -> Tensor:
        """The group's rows of a tensor [tokens, ...]; a view where they lie side by side."""
        return flat[self.tokens] if isinstance(self.tokens, slice) else flat.index_select(0, self.tokens)

    def write(self, flat: Tensor, values: Tensor) -> None:
        """Puts `values` at the group's rows of `flat`."""
        if isinstance(self.tokens, slice):
            flat[self.tokens].copy_(values)
        else:
            flat.index_copy_(0, self.tokens, values)


class RaggedBatch:
    """The runs of one step. Tensors are made when a kernel first asks, once a step, without waiting for the device."""

    def __init__(self, slots: np.ndarray, starts: np.ndarray, lengths: np.ndarray, device: torch.device) -> None:
        """slots uint32 [rows]; starts uint32 [rows + 1] into the flat tokens; lengths uint32 [rows] after this step."""
        self.device = device
        self._slots = slots.astype(np.int64)
        self._starts = starts.astype(np.int64)
        self._lengths = lengths.astype(np.int64)
        self._counts = np.diff(self._starts)

    @cached_property
    def all_runs(self) -> RunGroup:
        """Every run."""
        return self._group(np.arange(len(self._slots)))

    @cached_property
    def groups(self) -> tuple[RunGroup, ...]:
        """Runs of one token, then longer runs; a kind that the step does not have is left out."""
        kinds = (np.flatnonzero(self._counts == 1), np.flatnonzero(self._counts > 1))
        return tuple(self._group(rows) for rows in kinds if rows.size)

    @cached_property
    def token_places(self) -> tuple[Tensor, Tensor]:
        """Slot and position of every flat token, int64 [tokens] each."""
        shift = self._lengths - self._starts[1:]
        positions = np.arange(self._starts[-1]) + np.repeat(shift, self._counts)
        both = self._on_device(np.stack((np.repeat(self._slots, self._counts), positions)))
        return both[0], both[1]

    def tiles(self, tokens_per_tile: int) -> Tensor:
        """Every run cut in tiles: int32 [tiles, 2] of its row and of its first token inside the run, longest rows first."""
        per_row = -(-self._counts // tokens_per_tile)
        rows = np.repeat(np.arange(len(per_row)), per_row)
        first = np.arange(len(rows)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
        order = np.argsort(
            -self._lengths[rows], kind="stable"
        )  # the longest start first, so that none is left at the end
        return self._on_device(np.stack((rows, first * tokens_per_tile), axis=1)[order].astype(np.int32))

    def _group(self, rows: np.ndarray) -> RunGroup:
        counts, lengths = self._counts[rows], self._lengths[rows]
        ends = np.cumsum(counts)
        packed = np.concatenate(([0], ends, self._slots[rows], lengths)).astype(np.int32)
        columns = self._on_device(packed)
        middle = len(rows) + 1
        return RunGroup(
            tokens=self._tokens(rows, counts, ends),
            starts=columns[:middle],
            slots=columns[middle : middle + len(rows)],
            lengths=columns[middle + len(rows) :],
            longest_run=int(counts.max()),
            longest_length=int(lengths.max()),
        )

    def _tokens(self, rows: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> slice | Tensor:
        first, total = int(self._starts[rows[0]]), int(ends[-1])
        if int(self._starts[rows[-1] + 1]) == first + total:  # nothing of another group between them
            return slice(first, first + total)
        return self._on_device(np.arange(total) + np.repeat(self._starts[rows] - (ends - counts), counts))

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, non_blocking=True)
