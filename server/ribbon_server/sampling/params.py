"""Sampling parameters of every slot, in columns. Knows ranges, not what the parameters do."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ribbon_server.errors import InvalidRequest
from ribbon_server.sampling.grammars import Grammar

# One record a slot; the names are those of the wire. A batch gathers its rows in one call.
PARAMETERS = np.dtype(
    [
        ("greedy", np.uint8),
        ("temperature", np.float32),
        ("top_k", np.uint32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("typical_p", np.float32),
        ("repetition_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("count_penalty", np.float32),
        ("seed", np.uint64),
        ("choice", np.uint32),
        ("top_tokens", np.uint32),
        ("min_tokens", np.uint32),
        ("watermark_gamma", np.float32),
        ("watermark_delta", np.float32),
        ("prompt_top_tokens", np.uint32),
    ]
)

UNIT_RANGE = ("top_p", "typical_p")  # above 0, at most 1
CLOSED_UNIT_RANGE = ("min_p", "watermark_gamma")  # 0 is off
NO_TOKENS = np.zeros(0, np.uint32)
NO_VALUES = np.zeros(0, np.float32)


@dataclass(frozen=True)
class SamplingParams:
    """One sequence's parameters, checked."""

    values: np.void  # a PARAMETERS record
    stop_token_ids: np.ndarray = field(default_factory=NO_TOKENS.copy)  # uint32
    bias_token_ids: np.ndarray = field(default_factory=NO_TOKENS.copy)  # uint32
    bias_values: np.ndarray = field(default_factory=NO_VALUES.copy)  # float32
    grammar: Grammar | None = None


NEUTRAL = {
    "greedy": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
}


def parameters(**given: Any) -> np.void:
    """A record with neutral values where none is given.

    Raises:
        InvalidRequest: A value outside its range, by name.
    """
    record = np.zeros((), PARAMETERS)
    for name, value in (NEUTRAL | given).items():
        record[name] = value
    values: np.void = record[()]  # type: ignore[assignment]  # numpy's stubs do not know that this leaves an array
    check(values)
    return values


def check(record: np.void) -> None:
    """Refuses values that no sampler can mean."""
    for name in record.dtype.names or ():
        if not np.isfinite(record[name]):
            raise InvalidRequest(f"`{name}` is {record[name]}; it must be finite")
    for name in ("temperature", "repetition_penalty"):
        if record[name] <= 0:
            raise InvalidRequest(f"`{name}` is {record[name]}; it must be above 0")
    for name in UNIT_RANGE:
        if not 0 < record[name] <= 1:
            raise InvalidRequest(f"`{name}` is {record[name]}; it must be above 0 and at most 1")
    for name in CLOSED_UNIT_RANGE:
        if not 0 <= record[name] <= 1:
            raise InvalidRequest(f"`{name}` is {record[name]}; it must be between 0 and 1")


class RaggedTable:
    """A short list of values for each slot, padded to the longest one there has been."""

    def __init__(self, num_slots: int, dtype: type, padding: float) -> None:
        """Every list is empty."""
        self.padding = padding
        self.values: np.ndarray = np.full((num_slots, 1), padding, dtype)
        self.counts = np.zeros(num_slots, np.int64)

    def put(self, slot: int, values: np.ndarray) -> None:
        """Replaces one slot's list."""
        missing = len(values) - self.values.shape[1]
        if missing > 0:
            self.values = np.pad(self.values, ((0, 0), (0, missing)), constant_values=self.padding)
        self.values[slot] = self.padding
        self.values[slot, : len(values)] = values
        self.counts[slot] = len(values)

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """Padded lists [rows, longest of these], at least one column."""
        width = max(1, int(self.counts[slots].max(initial=0)))
        return self.values[slots, :width]
