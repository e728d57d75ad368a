"""Reads the shard's step log: one JSON line a step (`--step-log`). Knows steps; not requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One step. Rows that feed one token are decodes, others prefill chunks. Moments are nanoseconds of one monotonic clock."""

    step_id: int
    decode_rows: int
    chunk_rows: int
    tokens: int
    received_ns: int
    started_ns: int
    ended_ns: int
    previous_outcome_sent_ns: int

    @property
    def rows(self) -> int:
        """Sequences in the step."""
        return self.decode_rows + self.chunk_rows

    @property
    def seconds(self) -> float:
        """From its start in the shard to its end."""
        return (self.ended_ns - self.started_ns) / 1e9


def read_steps(path: Path) -> list[Step]:
    """All steps that computed something, in the order they ran. A line cut short by a kill is passed over."""
    steps = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        steps.append(Step(**{name: entry[name] for name in Step.__dataclass_fields__}))
    return [step for step in steps if step.rows]


def pipelined_share(steps: list[Step]) -> float:
    """Share of plans that were here before the outcome before them left. A stream's first plan has none before it."""
    later = [step for step in steps if step.step_id > 1]
    return sum(step.received_ns < step.previous_outcome_sent_ns for step in later) / max(1, len(later))
