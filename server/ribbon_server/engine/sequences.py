"""What the shard knows of the sequence in each slot, in columns. Rules (a) to (n) of the design's section 2 end here."""

from collections.abc import Iterable

import numpy as np

from ribbon_server.engine.pooling import Pools
from ribbon_server.engine.step import Admission, RefusedAdmission
from ribbon_server.errors import InvalidRequest
from ribbon_server.sampling.state import SamplingState


class Sequences:
    """Per-slot columns. `length` counts fed tokens, one less than `state.known` while a sequence decodes."""

    def __init__(self, num_slots: int, slot_tokens: int, vocab_size: int, *, reads_whole: bool = False) -> None:
        """No slot has a sequence. reads_whole: prompts are fed in one run, and a decoder begins with their last token."""
        self.reads_whole = reads_whole
        self.num_slots = num_slots
        self.slot_tokens = slot_tokens
        self.vocab_size = vocab_size
        self.state = SamplingState(num_slots, slot_tokens, reads_whole=reads_whole)
        self.pools = Pools(num_slots)
        self.length = np.zeros(num_slots, np.int64)
        self.is_seated = np.zeros(num_slots, bool)
        self.is_ended = np.zeros(num_slots, bool)
        self.cancelled_in = np.zeros(num_slots, np.int64)  # the step in which the slot's rows are cancelled
        self.refusals: dict[int, str] = {}

    @property
    def least_prompt(self) -> int:
        """Tokens of the shortest prompt: an encoder needs one to read beside the decoder's first."""
        return 2 if self.reads_whole else 1

    def admit(self, admission: Admission | RefusedAdmission) -> None:
        """Seats a sequence. One that cannot be is remembered, and its rows fail with the reason."""
        slot = admission.slot
        if not 0 < slot < self.num_slots:
            return  # its rows name the slot, and fail for it
        self.forget(np.array([slot]))
        try:
            self._seat(admission)
        except InvalidRequest as error:
            self.refusals[slot] = str(error)

    def _seat(self, admission: Admission | RefusedAdmission) -> None:
        if isinstance(admission, RefusedAdmission):
            raise InvalidRequest(admission.reason)
        self._check(admission)
        self.state.put(admission.slot, admission.token_ids, admission.prompt_tokens, admission.params)
        self.is_seated[admission.slot] = True

    def _check(self, admission: Admission) -> None:
        tokens, known = admission.token_ids, len(admission.token_ids)
        if not 0 < known <= self.slot_tokens:
            raise InvalidRequest(f"the history has {known} tokens; a slot takes 1 to {self.slot_tokens}")
        if not self.least_prompt <= admission.prompt_tokens <= known:
            least = f", and a prompt at least {self.least_prompt}"
            raise InvalidRequest(f"prompt_tokens is {admission.prompt_tokens}; the history has {known} tokens{least}")
        for name, ids in (("token", tokens), ("bias token", admission.params.bias_token_ids)):
            if ids.size and int(ids.max()) >= self.vocab_size:
                raise InvalidRequest(f"{name} id {int(ids.max())} is outside the vocabulary of {self.vocab_size}")

    def expect(self, admitted: Iterable[Admission | RefusedAdmission]) -> None:
        """Has the grammars compiled that sequences will soon bring. Any thread may call this."""
        grammars = self.state.grammars
        if grammars is None:
            return
        for admission in admitted:
            if isinstance(admission, Admission) and admission.params.grammar is not None:
                grammars.expect(admission.params.grammar)

    def forget(self, slots: np.ndarray) -> None:
        """The slots have no sequence any more."""
        self.length[slots] = 0
        self.is_seated[slots] = False
        self.is_ended[slots] = False
        self.cancelled_in[slots] = 0
        self.state.forget(slots)
        self.pools.forget(slots)
        for slot in slots.tolist():
            self.refusals.pop(slot, None)

    def advance(self, slots: np.ndarray, counts: np.ndarray) -> None:
        """The slots' next `counts` tokens are fed."""
        self.length[slots] += counts

    def append(self, slots: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Each slot got one more token. Returns which of them ended their sequence, bool [rows]."""
        state = self.state
        state.history[slots, state.known[slots]] = tokens
        state.known[slots] += 1
        stops = (state.stops.rows(slots) == tokens[:, None]).any(axis=1)
        self.is_ended[slots] = stops
        return stops

    def clear(self) -> None:
        """No slot has a sequence any more."""
        self.forget(np.arange(self.num_slots))
