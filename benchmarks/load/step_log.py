"""Reads the shard's step log: one JSON line a step (`--step-log`). Knows steps; not requests."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One step. Rows with one token to feed are decodes; others are prefill chunks. Moments are nanoseconds of the shard's monotonic clock."""

    step_id: int
    generation: int
    decode_rows: int
    chunk_rows: int
    tokens: int
    received_ns: int
    sent_ns: int
    total_ns: int

    @property
    def rows(self) -> int:
        """Sequences in the step."""
        return self.decode_rows + self.chunk_rows


def read_steps(path: Path) -> list[Step]:
    """All steps that computed something, in the order they ran. A line cut short by a kill is passed over."""
    steps = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        steps.append(Step(**{name: entry[name] for name in Step.__dataclass_fields__}))
    return [step for step in steps if step.rows]


def pipelined_share(steps: list[Step]) -> float:
    """Share of plans that were here before the outcome before them left, within one generation of the shard."""
    pairs = [(before, step) for before, step in itertools.pairwise(steps) if before.generation == step.generation]
    return sum(step.received_ns < before.sent_ns for before, step in pairs) / max(1, len(pairs))
