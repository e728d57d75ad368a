"""What sampling keeps for every slot: parameters, token history, counts. Vectorised over slots; no row is touched alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import CPU, upload
from ribbon_server.errors import InvalidRequest
from ribbon_server.sampling.grammars import Grammars
from ribbon_server.sampling.params import PARAMETERS, RaggedTable, SamplingParams


class SamplingState:
    """Per-slot columns. `known` counts a slot's tokens in `history`, of which the first `prompt` are the prompt."""

    def __init__(self, num_slots: int, slot_tokens: int, *, reads_whole: bool = False) -> None:
        """One more history token than a slot holds: the last one is sampled, never fed. reads_whole: penalties take no account of
        what an encoder reads, all but the last token of a prompt."""
        self._reads_whole = reads_whole
        self.params = np.zeros(num_slots, PARAMETERS)
        self.history = np.zeros((num_slots, slot_tokens + 1), np.int32)
        self.known = np.zeros(num_slots, np.int64)
        self.prompt = np.zeros(num_slots, np.int64)
        self.first = np.zeros(num_slots, np.int64)  # where the history begins that penalties look at
        self.stops = RaggedTable(num_slots, np.int64, -1)
        self.bias_ids = RaggedTable(num_slots, np.int64, 0)
        self.bias_values = RaggedTable(num_slots, np.float32, 0.0)
        self.grammars: Grammars | None = None  # of a model whose tokens have bytes

    def put(self, slot: int, tokens: np.ndarray, num_prompt: int, params: SamplingParams) -> None:
        """Seats a sequence with its whole known history.

        Raises:
            InvalidRequest: It has a grammar, and the model has none.
        """
        self.params[slot] = params.values
        self.history[slot, : len(tokens)] = tokens
        self.known[slot] = len(tokens)
        self.prompt[slot] = num_prompt
        self.first[slot] = num_prompt - 1 if self._reads_whole else 0
        self.stops.put(slot, params.stop_token_ids)
        self.bias_ids.put(slot, params.bias_token_ids)
        self.bias_values.put(slot, params.bias_values)
        if params.grammar is None:
            return
        if self.grammars is None:
            raise InvalidRequest("the sequence has a `grammar`; the model has no tokenizer.json to enforce it with")
        self.grammars.open(slot, params.grammar, params.stop_token_ids)

    def forget(self, slots: np.ndarray) -> None:
        """The slots have no sequence any more."""
        if self.grammars is not None:
            self.grammars.close(slots)

    def begin_masks(self, slots: np.ndarray) -> None:
        """Has the grammars of the sequences that will sample say what may come. Returns at once."""
        if self.grammars is not None:
            self.grammars.begin(slots, self.prompt[slots], self.known[slots], self.history)

    def has_grammar(self, slots: np.ndarray) -> np.ndarray:
        """Which of them have one, bool [rows]."""
        return np.zeros(len(slots), bool) if self.grammars is None else self.grammars.has[slots]

    def only_stops(self, slots: np.ndarray) -> np.ndarray:
        """Whose grammar allows nothing but stop tokens, bool [rows]."""
        return np.zeros(len(slots), bool) if self.grammars is None else self.grammars.only_stops(slots)

    def fault(self, slot: int) -> str | None:
        """What is wrong with the slot's grammar."""
        return None if self.grammars is None else self.grammars.fault(slot)

    def rows(self, slots: np.ndarray, device: torch.device = CPU) -> "SamplingRows":
        """The rows of one step, whose logits lie on `device`."""
        return SamplingRows(self, slots, self.params[slots], self.known[slots], self.prompt[slots], device)


@dataclass(frozen=True)
class SamplingRows:
    """The sequences that sample in one step, in batch order."""

    state: SamplingState
    slots: np.ndarray  # int64 [rows]
    params: np.ndarray  # PARAMETERS [rows]
    known: np.ndarray  # int64 [rows]
    prompt: np.ndarray  # int64 [rows]
    device: torch.device = CPU  # of the logits

    def subset(self, rows: np.ndarray) -> "SamplingRows":
        """Some of the rows, by index."""
        return SamplingRows(
            self.state, self.slots[rows], self.params[rows], self.known[rows], self.prompt[rows], self.device
        )

    def tensor(self, values: np.ndarray) -> Tensor:
        """`values` beside the logits."""
        return upload(values, self.device)

    def column(self, values: np.ndarray) -> Tensor:
        """One float32 parameter a row, as [rows, 1]."""
        return self.tensor(values.astype(np.float32)[:, None])

    @property
    def first(self) -> np.ndarray:
        """Where the history begins that penalties look at, int64 [rows]."""
        return self.state.first[self.slots]

    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int64 [rows, longest] and which of them are the row's own, bool."""
        longest = int(self.known.max(initial=1))
        ids, places = self.state.history[self.slots, :longest].astype(np.int64), np.arange(longest)
        return ids, (places >= self.first[:, None]) & (places < self.known[:, None])
