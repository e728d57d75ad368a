"""One step, as it is asked for and as it is answered. Columns have one entry a row of the plan's work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

import numpy as np

from ribbon_server.kv.ribbons import RibbonOps
from ribbon_server.sampling.params import SamplingParams
from ribbon_server.sampling.prompt_scores import TokenScores


class Wanted(IntFlag):
    """What a run of tokens should yield, numbered as on the wire."""

    NONE = 0
    SAMPLE = 1
    PROMPT_LOGPROBS = 2
    END = 4
    POOLED_MEAN = 8
    POOLED_LAST = 16


LAST_RUN = Wanted.SAMPLE | Wanted.END
POOLED = Wanted.POOLED_MEAN | Wanted.POOLED_LAST


class RowStatus(IntEnum):
    """What happened to a row, numbered as on the wire."""

    PENDING = 0
    FED = 1
    SAMPLED = 2
    STOPPED = 3
    ENDED = 4
    CANCELLED = 5
    FAILED = 6


@dataclass(frozen=True)
class Admission:
    """A sequence takes a slot, with its whole known history."""

    slot: int
    sequence_id: int
    token_ids: np.ndarray  # uint32
    prompt_tokens: int
    params: SamplingParams


@dataclass(frozen=True)
class RefusedAdmission:
    """An admission that could not be read; its rows fail with the reason, its neighbours do not."""

    slot: int
    reason: str


@dataclass(frozen=True)
class StepPlan:
    """Everything one step does."""

    step_id: int
    admitted: Sequence[Admission | RefusedAdmission]
    ops: RibbonOps
    slot: np.ndarray  # uint32
    count: np.ndarray  # uint32: tokens to feed
    wanted: np.ndarray  # uint8, sums of Wanted


@dataclass
class Timings:
    """Nanoseconds."""

    prepare_ns: int = 0
    forward_ns: int = 0
    sample_ns: int = 0
    total_ns: int = 0
    idle_ns: int = 0


@dataclass
class StepOutcome:
    """The answer to one plan, rows in the plan's order."""

    step_id: int
    slot: np.ndarray  # uint32
    status: np.ndarray  # uint8 of RowStatus
    token_id: np.ndarray  # uint32
    logprob: np.ndarray  # float32
    top_count: np.ndarray  # uint8
    top_token_id: np.ndarray  # uint32, flattened
    top_logprob: np.ndarray  # float32, flattened
    prompt_count: np.ndarray  # uint32: prompt tokens that the row scored
    pooled_count: np.ndarray  # uint32: values of `pooled` that are the row's
    pooled: np.ndarray  # float32, flattened
    prompt: TokenScores | None = None  # of all rows, one behind the other
    errors: list[tuple[int, str]] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    failure: str = ""
    is_out_of_pages: bool = False


def new_outcome(plan: StepPlan) -> StepOutcome:
    """Nothing has happened yet."""
    rows = len(plan.slot)
    return StepOutcome(
        step_id=plan.step_id,
        slot=plan.slot,
        status=np.zeros(rows, np.uint8),
        token_id=np.zeros(rows, np.uint32),
        logprob=np.zeros(rows, np.float32),
        top_count=np.zeros(rows, np.uint8),
        top_token_id=np.zeros(0, np.uint32),
        top_logprob=np.zeros(0, np.float32),
        prompt_count=np.zeros(rows, np.uint32),
        pooled_count=np.zeros(rows, np.uint32),
        pooled=np.zeros(0, np.float32),
    )
