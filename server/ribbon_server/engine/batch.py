"""Which rows of a plan run, and the index arrays of those that do. Vectorised: no work is done row by row."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import upload
from ribbon_server.engine.sequences import Sequences
from ribbon_server.engine.step import RowStatus, StepOutcome, StepPlan, Wanted
from ribbon_server.kv.ribbons import VOID


@dataclass(frozen=True)
class Batch:
    """The rows that run, in the plan's order."""

    rows: np.ndarray  # int64 [active]: index into the plan's rows
    slots: np.ndarray  # uint32 [active]
    counts: np.ndarray  # int64 [active]
    starts: np.ndarray  # uint32 [active + 1]: first flat token of each row
    lengths: np.ndarray  # uint32 [active]: fed tokens after this step
    token_ids: np.ndarray  # int64 [tokens]
    positions: np.ndarray  # int64 [tokens]
    sampling: np.ndarray  # int64 [sampled]: which of `rows` want a token
    sampled: np.ndarray  # int64 [sampled]: their last flat token

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, positions and sampled on `device`, without waiting for it."""
        return upload(self.token_ids, device), upload(self.positions, device), upload(self.sampled, device)


def select_rows(plan: StepPlan, sequences: Sequences, shown: np.ndarray, outcome: StepOutcome) -> np.ndarray:
    """Indices of the rows that run; all others get their status, and the bad ones a message each."""
    in_range = plan.slot < sequences.num_slots
    slots = np.where(in_range, plan.slot, 0).astype(np.int64)
    seated = sequences.is_seated[slots]
    ended = seated & sequences.is_ended[slots]
    cancelled = ~ended & (sequences.cancelled_in[slots] == plan.step_id)
    skipped = ended | cancelled
    bad = ~skipped & ~(seated & _can_run(plan, slots, sequences, shown))
    outcome.status[ended] = RowStatus.ENDED
    outcome.status[cancelled] = RowStatus.CANCELLED
    outcome.status[bad] = RowStatus.FAILED
    if bad.any():
        outcome.errors += [(int(row), explain(int(row), plan, sequences, shown)) for row in np.flatnonzero(bad)]
    return np.flatnonzero(~(skipped | bad))


def _can_run(plan: StepPlan, slots: np.ndarray, sequences: Sequences, shown: np.ndarray) -> np.ndarray:
    """Whether each row feeds known tokens into mapped memory and wants what it can have: bool [rows]."""
    known = sequences.state.known[slots]
    end = sequences.length[slots] + plan.count
    alone = np.bincount(slots, minlength=1)[slots] == 1
    reaches = np.where(plan.wanted == Wanted.SAMPLE, end == known, (plan.wanted == Wanted.NONE) & (end < known))
    return alone & reaches & (plan.count > 0) & (end <= shown[slots])


def explain(row: int, plan: StepPlan, sequences: Sequences, shown: np.ndarray) -> str:
    """Why a row cannot run. Off the steady path."""
    slot, count = int(plan.slot[row]), int(plan.count[row])
    if not 0 < slot < sequences.num_slots:
        return f"slot is {slot}; this shard has slots 1 to {sequences.num_slots - 1}"
    if slot in sequences.refusals:
        return sequences.refusals[slot]
    if not sequences.is_seated[slot]:
        return f"slot {slot} has no sequence; admit one first"
    if int((plan.slot == slot).sum()) > 1:
        return f"slot {slot} stands in {int((plan.slot == slot).sum())} rows of the step; once is the limit"
    if shown[slot] == VOID:
        return f"slot {slot} was refused a ribbon operation in an earlier step; close it first"
    length, known = int(sequences.length[slot]), int(sequences.state.known[slot])
    if length + count > int(shown[slot]):
        return f"slot {slot} may hold {int(shown[slot])} tokens; {length} + {count} do not fit, grow it first"
    return f"slot {slot} has fed {length} of {known} known tokens; count {count} with wanted {int(plan.wanted[row])} does not fit"


def make_batch(plan: StepPlan, rows: np.ndarray, sequences: Sequences) -> Batch:
    """Index arrays of the rows that run."""
    slots = plan.slot[rows].astype(np.int64)
    counts = plan.count[rows].astype(np.int64)
    lengths = sequences.length[slots] + counts
    ends = np.cumsum(counts)
    positions = np.arange(int(ends[-1])) + np.repeat(lengths - ends, counts)
    sampling = np.flatnonzero(plan.wanted[rows] == Wanted.SAMPLE)
    return Batch(
        rows=rows,
        slots=slots.astype(np.uint32),
        counts=counts,
        starts=np.concatenate(([0], ends)).astype(np.uint32),
        lengths=lengths.astype(np.uint32),
        token_ids=sequences.state.history[np.repeat(slots, counts), positions].astype(np.int64),
        positions=positions,
        sampling=sampling,
        sampled=ends[sampling] - 1,
    )
