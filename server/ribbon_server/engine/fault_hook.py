"""The test hook `--test-crash-token`: a chosen token in a prompt kills the shard in mid-generation. Off unless asked for."""

import os
import signal

import numpy as np

from ribbon_server.engine.step import Admission, RefusedAdmission
from ribbon_server.sampling.state import SamplingState

GENERATED_TOKENS = 5  # the shard dies in the step in which the sequence has so many


class FaultHook:
    """Kills this process, as a crash in native code would."""

    def __init__(self, crash_token: int | None) -> None:
        """Watches for `crash_token`; None watches for nothing."""
        self._crash_token = crash_token
        self._doomed: set[int] = set()

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
