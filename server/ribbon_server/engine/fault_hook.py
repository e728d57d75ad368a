"""The test hooks: a token in a prompt that kills the shard, and page allocations that fail at random. Off unless asked for."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from ribbon_server.config import InjectedFaults
from ribbon_server.engine.step import Admission, RefusedAdmission
from ribbon_server.kv.ribbons import OpKind, RibbonOps, Ribbons
from ribbon_server.sampling.state import SamplingState

GENERATED_TOKENS = 5  # the shard dies in the step in which the sequence has so many


class FaultHook:
    """`--test-crash-token` kills this process, as a crash in native code would; `--test-fail-allocations` empties the pool."""

    def __init__(self, faults: InjectedFaults) -> None:
        """Watches for what `faults` names."""
        self._crash_token = faults.crash_token
        self._doomed: set[int] = set()
        self._failure_rate = faults.allocation_failure_rate
        self._random = np.random.default_rng(faults.allocation_failure_seed)

    def admitted(self, admission: Admission | RefusedAdmission) -> None:
        """Notes whether the slot's new prompt holds the token."""
        self._doomed.discard(admission.slot)
        if self._crash_token is None or isinstance(admission, RefusedAdmission):
            return
        if (admission.token_ids[: admission.prompt_tokens] == self._crash_token).any():
            self._doomed.add(admission.slot)

    def before_forward(self, slots: np.ndarray, state: SamplingState) -> None:
        """Dies where a doomed sequence has generated enough."""
        if not self._doomed:
            return
        doomed = slots[np.isin(slots, list(self._doomed))]
        if (state.known[doomed] - state.prompt[doomed] >= GENERATED_TOKENS).any():
            os.kill(os.getpid(), signal.SIGKILL)

    def allocations(self, ops: RibbonOps, ribbons: Ribbons) -> AbstractContextManager[None]:
        """While it lasts, the pool may be empty: every operation that needs a page then finds none."""
        fails = (
            self._failure_rate > 0 and (ops.kind == OpKind.GROW).any() and self._random.random() < self._failure_rate
        )
        return self._empty_pool(ribbons) if fails else nullcontext()

    @staticmethod
    @contextmanager
    def _empty_pool(ribbons: Ribbons) -> Iterator[None]:
        ribbons.resize_pool(0)
        try:
            yield
        finally:
            ribbons.resize_pool(ribbons.limits.num_pages)
