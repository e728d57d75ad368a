"""Executes plans one after the other: admissions, ribbon operations, forward pass, sampling. Makes no decision of its own."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ribbon_server.distributed.base import World
from ribbon_server.distributed.single import SINGLE
from ribbon_server.engine.batch import Batch, make_batch, select_rows
from ribbon_server.engine.fault_hook import FaultHook
from ribbon_server.engine.forward import Yield, forward
from ribbon_server.engine.sequences import Sequences
from ribbon_server.engine.step import RowStatus, StepOutcome, StepPlan, new_outcome
from ribbon_server.errors import InvalidRequest, OutOfPages, ShardError
from ribbon_server.kv.ribbons import OpKind, RibbonOps, Ribbons
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.models.decoder import CausalModel
from ribbon_server.sampling.device_sampler import pick_on_device
from ribbon_server.sampling.sampler import REASONS, Fault, Picker, Picks, pick
from ribbon_server.sampling.shared_choice import SAMPLING_RANK, SharedChoice
from ribbon_server.sampling.state import SamplingRows

# What a forward pass can raise on our or the machine's account; the step fails, the process lives.
STEP_ERRORS = (ShardError, RuntimeError, ValueError, IndexError, OSError, MemoryError)
# What a plan alone decides, before the ranks talk: all of them fail the step alike. Of anything else the others may know nothing.
AGREED_ERRORS = (InvalidRequest, OutOfPages)


@dataclass(frozen=True)
class EngineParts:
    """What an engine works on."""

    decoder: CausalModel
    ribbons: Ribbons
    sequences: Sequences
    faults: FaultHook
    world: World = SINGLE


class Engine:
    """One model over one region. All calls come from one thread."""

    def __init__(self, parts: EngineParts) -> None:
        """Takes the parts; the decoder is prepared for the region's slot length."""
        self.decoder = parts.decoder
        self.ribbons = parts.ribbons
        self.sequences = parts.sequences
        self.world = parts.world
        self._faults = parts.faults
        is_alone = parts.world.rank.world_size == 1
        own_pick: Picker = pick if parts.decoder.device.type == "cpu" else pick_on_device
        self._shared = None if is_alone else SharedChoice(own_pick, parts.world)
        self.pick: Picker = self._shared or own_pick
        self._step_errors = STEP_ERRORS if is_alone else AGREED_ERRORS
        self._ended_ns = time.monotonic_ns()

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepOutcome:
        """Runs one plan. A failed step does not raise; state advances only when sampling succeeded.

        Raises:
            KvMemoryLost: The machine failed in a ribbon operation; the engine must be reset.
            Exception: With other ranks, whatever they may not have met themselves; the whole group must start again.
        """
        started_ns = time.monotonic_ns()
        outcome = new_outcome(plan)
        outcome.timings.idle_ns = started_ns - self._ended_ns
        try:
            self._run(plan, outcome)
        except self._step_errors as error:
            self._fail(outcome, error)
        self._cancel_next(outcome)
        self._ended_ns = time.monotonic_ns()
        outcome.timings.total_ns = self._ended_ns - started_ns
        return outcome

    def expect(self, plan: StepPlan) -> None:
        """Has pages and grammars of a plan that will be run later prepared. The one call that other threads may make."""
        self.ribbons.prefetch(plan.ops)
        self.sequences.expect(plan.admitted)

    def refuse(self, plan: StepPlan, reason: str) -> StepOutcome:
        """Answers a plan that cannot be read: every row failed."""
        outcome = new_outcome(plan)
        self._fail(outcome, InvalidRequest(reason))
        self._cancel_next(outcome)
        return outcome

    def inject(self, faults: FaultHook) -> None:
        """From now on, what goes wrong is this."""
        self._faults = faults

    def reset(self) -> None:
        """Forgets every sequence and gives every page back."""
        self.sequences.clear()
        self.ribbons.reset()

    def _run(self, plan: StepPlan, outcome: StepOutcome) -> None:
        began_ns = time.monotonic_ns()
        self._change_slots(plan)
        rows = select_rows(plan, self.sequences, self.ribbons.shown, outcome)
        if not rows.size:
            outcome.timings.prepare_ns = time.monotonic_ns() - began_ns
            return
        self._faults.before_forward(plan.slot[rows], self.sequences.state)
        batch = make_batch(plan, rows, self.sequences)
        prompts = self.sequences.state.prompt[batch.slots]
        context = ForwardContext(self.ribbons, batch.slots, batch.starts, batch.lengths, prompts)
        prepared_ns = time.monotonic_ns()
        if self.world.rank.index == SAMPLING_RANK:
            self.sequences.state.begin_masks(batch.slots[batch.sampling].astype(np.int64))
        made = forward(self.decoder, batch, context, self.sequences.vocab_size)
        self.ribbons.fence()
        forwarded_ns = time.monotonic_ns()
        faults = self._take_prompt(batch, made, outcome)
        self._finish(batch, made, faults, outcome)
        outcome.timings.prepare_ns = prepared_ns - began_ns
        outcome.timings.forward_ns = forwarded_ns - prepared_ns
        outcome.timings.sample_ns = time.monotonic_ns() - forwarded_ns

    def _change_slots(self, plan: StepPlan) -> None:
        """Closed slots lose their sequence, admitted ones get theirs, then pages move."""
        ops = plan.ops
        if not (len(ops.kind) or plan.admitted):
            return
        closed = ops.slot[(ops.kind == OpKind.CLOSE) & (ops.slot < self.sequences.num_slots)]
        if closed.size:
            self.sequences.forget(closed)
        for admission in plan.admitted:
            self.sequences.admit(admission)
            self._faults.admitted(admission)
        if len(ops.kind):
            self._move_pages(ops, plan.step_id)

    def _move_pages(self, ops: RibbonOps, step_id: int) -> None:
        """Tokens that a slot shows before it grows are fed already. Slots that lost an operation are dead in the next plan, too."""
        begins = ops.slot[
            ((ops.kind == OpKind.OPEN) | (ops.kind == OpKind.SHARE)) & (ops.slot < self.sequences.num_slots)
        ]
        try:
            with self._faults.allocations(ops, self.ribbons):
                self.ribbons.apply(ops)
        except ShardError:
            self.sequences.cancelled_in[self.ribbons.void_slots()] = step_id + 1
            raise
        finally:
            self.sequences.length[begins] = self.ribbons.begins[begins]

    def _take_prompt(self, batch: Batch, made: Yield, outcome: StepOutcome) -> np.ndarray:
        """Writes down what the model thought of prompt tokens. Returns the fault of each row, uint8 [active]."""
        faults = np.zeros(len(batch.rows), np.uint8)
        if batch.scored is None and batch.pooled is None:
            return faults
        if batch.scored is not None and made.scores is not None:
            outcome.prompt = made.scores
            outcome.prompt_count[batch.rows] = np.bincount(batch.scored.rows, minlength=len(batch.rows))
            faults[batch.scored.rows[~made.scores.is_valid]] = Fault.NOT_FINITE
        if batch.pooled is not None and made.sums is not None:
            is_finite = made.sums.isfinite().all(dim=1).cpu().numpy()
            faults[batch.pooled.rows[~is_finite]] = Fault.BAD_STATES
        if self._shared is not None:
            self._shared.agree(faults)
        return faults

    def _finish(self, batch: Batch, made: Yield, faults: np.ndarray, outcome: StepOutcome) -> None:
        """Samples, then advances the state of the rows that succeeded; those with a fault before take no part."""
        outcome.status[batch.rows] = RowStatus.FED
        if batch.sampling.size:
            sampling_slots = batch.slots[batch.sampling].astype(np.int64)
            picks = self._picks(made.logits, self.sequences.state.rows(sampling_slots, self.decoder.device))
            picks.fault[:] = np.maximum(picks.fault, faults[batch.sampling])
            faults[batch.sampling] = picks.fault
            self._take(picks, batch.rows[batch.sampling], sampling_slots, outcome)
        if faults.any():
            bad = faults != Fault.NONE
            outcome.status[batch.rows[bad]] = RowStatus.FAILED
            columns = (batch.rows, batch.slots, faults)
            failed = zip(*(column[bad].tolist() for column in columns), strict=True)
            outcome.errors += [(row, self._reason(slot, Fault(fault))) for row, slot, fault in failed]
        fed = faults == Fault.NONE
        if made.sums is not None:
            self._pool(batch, made.sums, fed, outcome)
        self.sequences.advance(batch.slots[fed].astype(np.int64), batch.counts[fed])

    def _picks(self, logits: torch.Tensor | None, rows: SamplingRows) -> Picks:
        """A stage without logits hears of the last one what was picked."""
        if logits is not None:
            return self.pick(logits, rows)
        if self._shared is None:
            raise AssertionError("rows that sample have logits")
        return self._shared.told(len(rows.slots))

    def _pool(self, batch: Batch, sums: torch.Tensor, fed: np.ndarray, outcome: StepOutcome) -> None:
        """The sums of the rows that were fed join those of their chunks before; vectors that are due are written down."""
        pooled, pools = batch.pooled, self.sequences.pools
        if pooled is None:
            raise AssertionError("there are sums of nothing")
        slots, good = batch.slots[pooled.rows].astype(np.int64), fed[pooled.rows]
        kept = sums if good.all() else sums[torch.from_numpy(good).to(sums.device)]
        pools.add(slots[good], kept, pooled.counts[good])
        due = good & pooled.ends
        if due.any():
            vectors = pools.means(slots[due])
            outcome.pooled = vectors.ravel()
            outcome.pooled_count[batch.rows[pooled.rows[due]]] = vectors.shape[1]

    def _take(self, picks: Picks, rows: np.ndarray, slots: np.ndarray, outcome: StepOutcome) -> None:
        """Writes the picks of the plan's `rows` down, in the outcome and in the histories."""
        valid = picks.is_valid
        ended = self.sequences.append(slots[valid], picks.token_id[valid])
        outcome.status[rows[valid]] = np.where(ended, RowStatus.STOPPED, RowStatus.SAMPLED)
        outcome.token_id[rows[valid]] = picks.token_id[valid]
        outcome.logprob[rows[valid]] = picks.logprob[valid]
        self._take_top(picks, rows, outcome)

    def _reason(self, slot: int, fault: Fault) -> str:
        """Why the sequence got no token: its grammar knows better. Off the steady path."""
        return self.sequences.state.fault(slot) or REASONS[fault]

    @staticmethod
    def _take_top(picks: Picks, rows: np.ndarray, outcome: StepOutcome) -> None:
        """Flattens the lists of top tokens; rows are in the plan's order, so the lists are too."""
        counts = np.where(picks.is_valid, picks.top_count, 0)
        listed = np.arange(picks.top_token_id.shape[1]) < counts[:, None]
        outcome.top_count[rows] = counts
        outcome.top_token_id = picks.top_token_id[listed]
        outcome.top_logprob = picks.top_logprob[listed]

    def _fail(self, outcome: StepOutcome, error: Exception) -> None:
        """Every row that could have run failed; lengths and histories are as they were."""
        outcome.failure = f"{type(error).__name__}: {error}"
        outcome.is_out_of_pages = isinstance(error, OutOfPages)
        outcome.errors = []
        skipped = (outcome.status == RowStatus.ENDED) | (outcome.status == RowStatus.CANCELLED)
        outcome.status[~skipped] = RowStatus.FAILED
        outcome.token_id[:], outcome.logprob[:], outcome.top_count[:] = 0, 0, 0
        outcome.top_token_id, outcome.top_logprob = outcome.top_token_id[:0], outcome.top_logprob[:0]
        outcome.prompt, outcome.prompt_count[:] = None, 0
        outcome.pooled, outcome.pooled_count[:] = outcome.pooled[:0], 0

    def _cancel_next(self, outcome: StepOutcome) -> None:
        """The next plan was sent before this failure was known: its rows for the same slots are answered cancelled."""
        failed = outcome.slot[outcome.status == RowStatus.FAILED]
        if failed.size:
            self.sequences.cancelled_in[failed[failed < self.sequences.num_slots]] = outcome.step_id + 1
