"""Which rows of a plan run, and the index arrays of those that do. Vectorised: no work is done row by row."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import upload
from ribbon_server.engine.pooling import PooledTokens
from ribbon_server.engine.sequences import Sequences
from ribbon_server.engine.step import LAST_RUN, POOLED, RowStatus, StepOutcome, StepPlan, Wanted
from ribbon_server.kv.ribbons import VOID
from ribbon_server.sampling.state import SamplingState

ALL_WANTED = np.arange(256, dtype=np.uint8)
# Which sums of Wanted mean something, bool [256]: a run ends in one way, is pooled in one way, and samples or is pooled.
CONSISTENT = (
    (sum(Wanted) >= ALL_WANTED)
    & ((ALL_WANTED & LAST_RUN) != LAST_RUN)
    & ((ALL_WANTED & POOLED) != POOLED)
    & ~((ALL_WANTED & Wanted.SAMPLE).astype(bool) & (ALL_WANTED & POOLED).astype(bool))
)


@dataclass(frozen=True)
class ScoredTokens:
    """Known prompt tokens whose logprobs are wanted, in the order of the flat tokens that score them."""

    flat: np.ndarray  # int64 [scored]: flat token before each
    token_ids: np.ndarray  # int64 [scored]
    rows: np.ndarray  # int64 [scored]: which of the batch's rows
    num_top: np.ndarray  # uint32 [scored]: top tokens wanted beside each


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
    scored: ScoredTokens | None
    pooled: PooledTokens | None

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
    reaches = np.where(plan.wanted & LAST_RUN, end == known, end < known) & CONSISTENT[plan.wanted]
    runs = alone & reaches & (plan.count > 0) & (end <= shown[slots])
    return runs & _is_uncut(plan, slots, sequences) if sequences.reads_whole else runs


def _is_uncut(plan: StepPlan, slots: np.ndarray, sequences: Sequences) -> np.ndarray:
    """Whether each row brings its whole prompt, or has brought it, and wants neither scores nor states: bool [rows]."""
    prompt, length = sequences.state.prompt[slots], sequences.length[slots]
    brings = (length == 0) & (plan.count >= prompt)
    return (brings | (length >= prompt)) & (plan.wanted & ~LAST_RUN == 0)


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
    uncut = f", and its prompt of {int(sequences.state.prompt[slot])} tokens is fed in one run, without scores"
    told = f"slot {slot} has fed {length} of {known} known tokens; count {count} with wanted {int(plan.wanted[row])} does not fit"
    return told + uncut if sequences.reads_whole else told


def make_batch(plan: StepPlan, rows: np.ndarray, sequences: Sequences) -> Batch:
    """Index arrays of the rows that run."""
    slots = plan.slot[rows].astype(np.int64)
    counts = plan.count[rows].astype(np.int64)
    lengths = sequences.length[slots] + counts
    ends = np.cumsum(counts)
    of = np.repeat(np.arange(len(rows)), counts)  # the row of each flat token
    positions = np.arange(int(ends[-1])) + (lengths - ends)[of]
    wanted = plan.wanted[rows]
    sampling = np.flatnonzero(wanted & Wanted.SAMPLE)
    scoring = (wanted & Wanted.PROMPT_LOGPROBS).astype(bool)
    return Batch(
        rows=rows,
        slots=slots.astype(np.uint32),
        counts=counts,
        starts=np.concatenate(([0], ends)).astype(np.uint32),
        lengths=lengths.astype(np.uint32),
        token_ids=sequences.state.history[slots[of], positions].astype(np.int64),
        positions=positions,
        sampling=sampling,
        sampled=ends[sampling] - 1,
        scored=_scored(scoring[of], of, slots[of], positions, sequences.state) if scoring.any() else None,
        pooled=_pooled(wanted, of, ends) if (wanted & POOLED).any() else None,
    )


def _pooled(wanted: np.ndarray, of: np.ndarray, ends: np.ndarray) -> PooledTokens | None:
    """All tokens of the rows that want a mean, the last one of those that end and want it; of [tokens], the others [rows]."""
    is_mean, is_end = (wanted & Wanted.POOLED_MEAN).astype(bool), (wanted & Wanted.END).astype(bool)
    rows = np.flatnonzero(is_mean | (is_end & (wanted & Wanted.POOLED_LAST).astype(bool)))
    if not rows.size:
        return None
    is_pooling = np.isin(np.arange(len(wanted)), rows)
    is_last = np.arange(len(of)) == ends[of] - 1
    flat = np.flatnonzero(is_pooling[of] & (is_mean[of] | is_last))
    at = np.searchsorted(rows, of[flat])
    return PooledTokens(flat, at, rows, np.bincount(at, minlength=len(rows)), is_end[rows])


def _scored(
    scoring: np.ndarray, of: np.ndarray, slots: np.ndarray, positions: np.ndarray, state: SamplingState
) -> ScoredTokens | None:
    """What the flat tokens of rows that are `scoring` say of the tokens behind them; all arguments [tokens]."""
    flat = np.flatnonzero(scoring & (positions + 1 < state.prompt[slots]))
    if not flat.size:
        return None
    token_ids = state.history[slots[flat], positions[flat] + 1].astype(np.int64)
    return ScoredTokens(flat, token_ids, of[flat], state.params["prompt_top_tokens"][slots[flat]])
