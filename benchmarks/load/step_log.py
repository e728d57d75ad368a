"""Reads the shard's step log: one JSON line a step (`--step-log`). Knows steps; not requests."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median


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


@dataclass(frozen=True)
class Idle:
    """Gaps between one step's end and the next one's start while the batch was full."""

    gaps: int
    median_microseconds: float
    share_of_step: float  # all gaps ÷ all of these steps' time


def idle_between(steps: list[Step], rows: int) -> Idle | None:
    """Idleness between neighbouring steps that both carry at least `rows` rows; None when there are no such steps."""
    pairs = [(one, other) for one, other in itertools.pairwise(steps) if min(one.rows, other.rows) >= rows]
    pairs = [(one, other) for one, other in pairs if other.step_id == one.step_id + 1]
    if not pairs:
        return None
    gaps = [(other.started_ns - one.ended_ns) / 1e9 for one, other in pairs]
    return Idle(len(pairs), median(gaps) * 1e6, sum(gaps) / sum(other.seconds for _, other in pairs))
