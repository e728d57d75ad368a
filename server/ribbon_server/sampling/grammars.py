"""The grammars of constrained sequences, by slot. Knows slots, histories and masks; what a grammar says, the native module knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ribbon_server import _native
from ribbon_server.device import upload

WORD_BITS = 32


@dataclass(frozen=True)
class Grammar:
    """What a sequence's generated tokens have to follow. The router has compiled it once already."""

    kind: str  # json_schema, regex or lark
    source: str
    digest: bytes  # SHA-256 of both
    start_after: int | None = None  # it holds behind the first generated token with this id
    opened_by: int | None = None  # with it, `start_after` counts only where this is the first generated token


@dataclass(frozen=True)
class GrammarTokens:
    """Where the model's tokens have their bytes, and which of them end a text."""

    tokenizer_json: Path
    vocab_size: int
    end_tokens: Sequence[int]


class Grammars:
    """Which tokens may come next, in each slot with a grammar. Masks are filled by a thread between `begin` and `finish`."""

    def __init__(self, tokens: GrammarTokens, num_slots: int) -> None:
        """No slot has one. The tokenizer is read in the background; one that cannot be used fails the rows with a grammar."""
        self.has = np.zeros(num_slots, bool)
        self._vocab_size = tokens.vocab_size
        self._native = _native.Grammars(
            tokenizer_json=str(tokens.tokenizer_json),
            vocab_size=tokens.vocab_size,
            end_tokens=list(tokens.end_tokens),
            num_slots=num_slots,
        )

    def expect(self, grammar: Grammar) -> None:
        """Starts to compile what a sequence will soon bring. Any thread may call this."""
        self._native.expect(**vars(grammar))

    def open(self, slot: int, grammar: Grammar, stops: np.ndarray) -> None:
        """The sequence that takes `slot` follows `grammar`; stops uint32 are the tokens that end it."""
        self._native.open(slot, np.ascontiguousarray(stops, np.uint32), **vars(grammar))
        self.has[slot] = True

    def close(self, slots: np.ndarray) -> None:
        """The slots have none any more."""
        closed = slots[self.has[slots]]
        if closed.size:
            self._native.close(closed.astype(np.uint32))
            self.has[closed] = False

    def begin(self, slots: np.ndarray, prompt: np.ndarray, known: np.ndarray, history: np.ndarray) -> None:
        """Starts on the masks of those of `slots` that have a grammar: int64 columns, and history int32 of all slots."""
        having = self.has[slots]
        if having.any():
            self._native.begin(slots[having].astype(np.uint32), prompt[having], known[having], history)

    def apply(self, logits: Tensor, slots: np.ndarray) -> None:
        """What may not come gets -inf: logits float32 [rows, vocab] of `slots`, which all have a grammar."""
        self._native.finish()
        slots = slots.astype(np.uint32)
        if logits.device.type == "cpu":
            self._native.apply(slots, logits.numpy())
            return
        masks = np.zeros((len(slots), self._native.mask_words), np.uint32)
        self._native.masks(slots, masks)
        logits.masked_fill_(~unpacked(upload(masks.view(np.int32), logits.device), self._vocab_size), float("-inf"))

    def only_stops(self, slots: np.ndarray) -> np.ndarray:
        """Where nothing may come but tokens that end the sequence, bool [rows]."""
        self._native.finish()
        output = np.zeros(len(slots), np.uint8)
        self._native.only_stops(slots.astype(np.uint32), output)
        return output.astype(bool)

    def fault(self, slot: int) -> str | None:
        """Why nothing may come."""
        return self._native.fault(slot)


def unpacked(masks: Tensor, vocab_size: int) -> Tensor:
    """masks int32 [rows, words], the lowest token in the lowest bit: bool [rows, vocab]."""
    bits = torch.arange(WORD_BITS, device=masks.device, dtype=torch.int32)
    return ((masks[:, :, None] >> bits) & 1).bool().flatten(1)[:, :vocab_size]
