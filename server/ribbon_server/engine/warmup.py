"""Runs real steps on made-up tokens: finds the step budget and the times that deadlines are derived from."""

import logging
import time
from dataclasses import dataclass

import numpy as np

from ribbon_server.engine.engine import Engine
from ribbon_server.engine.limits import LARGEST_BUDGET
from ribbon_server.engine.step import Admission, StepOutcome, StepPlan, Wanted
from ribbon_server.errors import Internal
from ribbon_server.kv.ribbons import OpKind, RibbonOps, Ribbons
from ribbon_server.sampling.params import SamplingParams, parameters
from ribbon_server.telemetry import log

SMALLEST_BUDGET = 64
SLOWEST_CHUNK_NS = 200_000_000
REPEATS = 3
HOPELESS_NS = 3 * SLOWEST_CHUNK_NS  # no repeat of a busy machine's step comes below the limit from here


@dataclass(frozen=True)
class WarmupFigures:
    """What the warm-up measured and chose."""

    budget: int  # tokens a step
    decode_step_ns: int  # one row
    slowest_step_ns: int
    prompt_token_ns: int  # of each in the largest step that the budget allows, at least 1
    warmup_ns: int


class Warmup:
    """Warm-up steps of one engine; every slot is free before and after."""

    _least_prompt = 1  # tokens of the shortest sequence

    def __init__(self, engine: Engine, max_positions: int) -> None:
        """Takes an engine that nobody uses yet."""
        self._engine = engine
        self._max_positions = max_positions
        self._largest = largest_step(engine.ribbons)
        self._least_prompt = engine.sequences.least_prompt
        self._step_id = 0

    def run(self, wanted_budget: int) -> WarmupFigures:
        """Measures; wanted_budget 0 chooses the largest power of two whose step takes at most 200 ms.

        Raises:
            Internal: A warm-up step failed.
        """
        started_ns = time.monotonic_ns()
        decode_ns = self._best(self._least_prompt)
        log(logging.INFO, f"warm-up: a decode step takes {decode_ns / 1e6:.1f} ms", decode_ms=decode_ns / 1e6)
        budget, chunk_ns = self._try_budget(wanted_budget) if wanted_budget else self._choose_budget()
        chunk, step_ms = min(budget, self._largest), chunk_ns / 1e6
        log(logging.INFO, f"warm-up: a step of {chunk} tokens takes {step_ms:.1f} ms", tokens=chunk, step_ms=step_ms)
        slowest_ns = max(decode_ns, chunk_ns, self._longest_prompt())
        token_ns = max(1, chunk_ns // chunk)
        return WarmupFigures(budget, decode_ns, slowest_ns, token_ns, time.monotonic_ns() - started_ns)

    def _longest_prompt(self) -> int:
        """The time of the longest prompt, where prompts are not cut to the budget; deadlines must allow for it. 0 elsewhere."""
        if self._least_prompt == 1:
            return 0
        longest = min(self._engine.ribbons.limits.slot_tokens, self._largest)
        longest_ns = self._measure(longest)
        log(logging.INFO, f"warm-up: a prompt of {longest} tokens, which is not cut, takes {longest_ns / 1e6:.1f} ms")
        return longest_ns

    def _try_budget(self, wanted: int) -> tuple[int, int]:
        """The operator's budget and the time of the largest step under it: no step can hold more than the KV memory."""
        if wanted > self._largest:
            log(
                logging.WARNING,
                f"warm-up: `max_batch_prefill_tokens` is {wanted}, but the KV memory holds {self._largest} tokens at once, so no "
                "step is larger; raise `--kv-memory` to use the whole budget",
            )
        return wanted, self._best(min(wanted, self._largest))

    def _choose_budget(self) -> tuple[int, int]:
        """Doubles from the smallest budget until a step takes too long or does not fit the KV memory."""
        budget = min(SMALLEST_BUDGET, self._largest)
        budget_ns = self._best(budget)
        while budget_ns <= SLOWEST_CHUNK_NS and 2 * budget <= min(LARGEST_BUDGET, self._max_positions, self._largest):
            doubled_ns = self._best(2 * budget)
            if doubled_ns > SLOWEST_CHUNK_NS:
                break
            budget, budget_ns = 2 * budget, doubled_ns
        return budget, budget_ns

    def _best(self, num_tokens: int) -> int:
        """The fastest of a few steps of `num_tokens`, or the only one where it is hopeless."""
        best_ns = self._measure(num_tokens)
        for _ in range(REPEATS - 1):
            if best_ns > HOPELESS_NS:
                break
            best_ns = min(best_ns, self._measure(num_tokens))
        return best_ns

    def _measure(self, num_tokens: int) -> int:
        """One step over as many fresh sequences as it needs, each at most as long as a slot; then all are closed."""
        counts = _split(num_tokens, self._engine.ribbons.limits.slot_tokens, self._least_prompt)
        num_groups = len(self._engine.ribbons.groups)
        outcome = self._step(opening_plan(self._next_id(), counts, num_groups))
        self._step(closing_plan(self._next_id(), len(counts), num_groups))
        return -self._engine.world.least(
            -outcome.timings.total_ns
        )  # the slowest rank's, so that all of them choose alike

    def _step(self, plan: StepPlan) -> StepOutcome:
        outcome = self._engine.step(plan)
        if outcome.failure or outcome.errors:
            raise Internal(f"a warm-up step failed: {outcome.failure or outcome.errors[0][1]}")
        return outcome

    def _next_id(self) -> int:
        self._step_id += 1
        return self._step_id


def largest_step(ribbons: Ribbons) -> int:
    """Tokens that fresh sequences can feed in one step: what all slots hold, and what the pool does with a page lost in each."""
    limits, layouts = ribbons.limits, [group.layout for group in ribbons.groups]
    slots, groups = limits.num_slots - 1, len(layouts)
    stride_bytes, page_bytes = sum(layout.stride_bytes for layout in layouts), layouts[0].page_bytes
    spare = (limits.num_pages - slots * groups) * page_bytes // stride_bytes
    alone = (limits.num_pages - (groups - 1)) * page_bytes // stride_bytes  # one sequence: its last group ends the pool
    return min(slots * limits.slot_tokens, max(spare, min(alone, limits.slot_tokens)))


def _split(total: int, longest: int, least: int) -> list[int]:
    """`total` tokens as runs of at most `longest`; what is left goes where it is below `least`."""
    whole, rest = divmod(total, longest)
    return [longest] * whole + ([rest] if rest >= least else [])


def opening_plan(step_id: int, counts: list[int], num_groups: int = 1) -> StepPlan:
    """Sequences of `counts` tokens in slots 1, 2 …, each fed in one run, each sampling with a filter and a penalty on."""
    values = parameters(greedy=0, top_p=0.9, top_k=50, repetition_penalty=1.1)
    slots = np.arange(1, len(counts) + 1, dtype=np.uint32)
    admitted = [
        Admission(int(slot), 0, np.ones(count, np.uint32), count, SamplingParams(values))
        for slot, count in zip(slots, counts, strict=True)
    ]
    ends = np.asarray(counts, np.uint32)
    nothing = np.zeros_like(slots)
    ops = RibbonOps(
        kind=np.repeat(np.array([OpKind.OPEN, OpKind.GROW], np.uint8), len(counts)),
        group=np.zeros(2 * len(counts), np.uint8),
        slot=np.tile(slots, 2),
        storage=np.concatenate((slots, nothing)),
        tokens=np.concatenate((nothing, ends)),
    )
    wanted = np.full(len(counts), Wanted.SAMPLE, np.uint8)
    return StepPlan(step_id, admitted, in_every_group(ops, num_groups), slots, ends, wanted)


def closing_plan(step_id: int, num_slots: int, num_groups: int = 1) -> StepPlan:
    """Gives slots 1 to `num_slots` and their storages back."""
    slots = np.arange(1, num_slots + 1, dtype=np.uint32)
    kind = np.full(num_slots, OpKind.CLOSE, np.uint8)
    nothing = np.zeros(num_slots, np.uint32)
    none = np.zeros(0, np.uint32)
    ops = RibbonOps(kind, np.zeros_like(kind), slots, nothing, nothing)
    return StepPlan(step_id, (), in_every_group(ops, num_groups), none, none, none.astype(np.uint8))


def in_every_group(ops: RibbonOps, num_groups: int) -> RibbonOps:
    """The operations once for each group, storages numbered alike."""
    rows = len(ops.kind)
    columns = (np.tile(column, num_groups) for column in (ops.slot, ops.storage, ops.tokens))
    group = np.repeat(np.arange(num_groups, dtype=np.uint8), rows)
    return RibbonOps(np.tile(ops.kind, num_groups), group, *columns)
