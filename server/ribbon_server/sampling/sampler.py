"""From logits to the next token of every row: processors, then one native call. Knows rows, not sequences."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from ribbon_server import _native
from ribbon_server.sampling.registry import PROCESSORS
from ribbon_server.sampling.state import SamplingRows

TIE_ROOM = 16  # ties at the last place extend a list of top tokens by at most so many
MAX_TOP = 255  # the wire counts top tokens in a byte
Picker = Callable[[Tensor, SamplingRows], "Picks"]
FILTERS = ("greedy", "temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "choice")


class Fault(IntEnum):
    """Why a row has no token."""

    NONE = 0
    NOT_FINITE = 1
    NO_TOKEN = 2
    BAD_STATES = 3


REASONS = {
    Fault.NOT_FINITE: "the logits are not finite; the sequence cannot go on",
    Fault.BAD_STATES: "the states are not finite; the sequence cannot go on",
    Fault.NO_TOKEN: "no token is allowed any more; the sequence cannot go on",
}
NATIVE_EMPTY = 3  # status of a row in which every logit is -inf


@dataclass(frozen=True)
class Picks:
    """What was picked, row by row."""

    token_id: np.ndarray  # uint32 [rows]
    logprob: np.ndarray  # float32 [rows]
    top_count: np.ndarray  # uint32 [rows]
    top_token_id: np.ndarray  # uint32 [rows, max_top]
    top_logprob: np.ndarray  # float32 [rows, max_top]
    fault: np.ndarray  # uint8 [rows] of Fault

    @property
    def is_valid(self) -> np.ndarray:
        """Which rows have a token, bool [rows]."""
        return self.fault == Fault.NONE


def pick(logits: Tensor, rows: SamplingRows) -> Picks:
    """Picks each row's next token; logits float32 [rows, vocab] are changed in place.

    A row whose logits are not finite, or that no token is left to, fails alone.
    """
    is_finite = torch.isfinite(logits.amax(dim=1)).numpy()  # NaN and +inf survive a maximum
    if not is_finite.all():
        logits[torch.from_numpy(~is_finite)] = 0.0  # before a mask could hide them
    process(logits, rows)
    return _pick_native(logits.numpy(), rows, is_finite)


def process(logits: Tensor, rows: SamplingRows) -> None:
    """Runs every processor on the rows that want it."""
    for processor in PROCESSORS:
        active = processor.is_active(rows)
        if not active.any():
            continue
        if active.all():
            processor.apply(logits, processor.prepare(rows))
            continue
        index = np.flatnonzero(active)
        at = rows.tensor(index)
        part = logits.index_select(0, at)
        processor.apply(part, processor.prepare(rows.subset(index)))
        logits.index_copy_(0, at, part)


def top_room(rows: SamplingRows) -> tuple[np.ndarray, int]:
    """How many top tokens each row wants, uint32 [rows], and the longest list that ties may make of them, at least 1."""
    return listed_room(rows.params["top_tokens"])


def listed_room(wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """`wanted` cut to what the wire counts, uint32 [rows], and the longest list that ties may make of them, at least 1."""
    num_top = np.minimum(wanted, MAX_TOP - TIE_ROOM).astype(np.uint32)
    widest = int(num_top.max(initial=0))
    return num_top, widest + TIE_ROOM if widest else 1


def _pick_native(logits: np.ndarray, rows: SamplingRows, is_finite: np.ndarray) -> Picks:
    num_rows = len(logits)
    num_top, max_top = top_room(rows)
    picks = Picks(
        token_id=np.zeros(num_rows, np.uint32),
        logprob=np.zeros(num_rows, np.float32),
        top_count=np.zeros(num_rows, np.uint32),
        top_token_id=np.zeros((num_rows, max_top), np.uint32),
        top_logprob=np.zeros((num_rows, max_top), np.float32),
        fault=np.zeros(num_rows, np.uint8),
    )
    status = np.zeros(num_rows, np.uint8)
    _native.sample(
        logits=logits,
        position=rows.known.astype(np.uint32),
        num_top=num_top,
        token_id=picks.token_id,
        logprob=picks.logprob,
        top_count=picks.top_count,
        top_token_id=picks.top_token_id,
        top_logprob=picks.top_logprob,
        status=status,
        **{name: rows.params[name].copy() for name in FILTERS},
    )
    picks.fault[status != 0] = Fault.NOT_FINITE
    picks.fault[status == NATIVE_EMPTY] = Fault.NO_TOKEN
    picks.fault[~is_finite] = Fault.NOT_FINITE
    return picks
