"""The step log: one JSON line a step, for benchmarks and for the curious. Written only when `--step-log` names a file."""

import json
from pathlib import Path
from types import TracebackType

import numpy as np

from ribbon_server.engine.step import StepOutcome, StepPlan
from ribbon_server.errors import BadSetting
from ribbon_server.kv.ribbons import Ribbons


class StepLog:
    """Appends lines to a file, flushed one by one. Times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
            BadSetting: It cannot be written.
        """
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise BadSetting(
                f"`--step-log` {path} cannot be written ({error.strerror}); give a file in a directory that exists"
            ) from error

    def write(self, plan: StepPlan, outcome: StepOutcome, times: dict[str, int], ribbons: Ribbons) -> None:
        """One step; `times` are received_ns, started_ns, ended_ns and previous_outcome_sent_ns."""
        line = {
            "step_id": plan.step_id,
            "rows": len(plan.slot),
            "tokens": int(plan.count.sum()),
            "chunk_rows": int(np.count_nonzero(plan.count > 1)),
            "decode_rows": int(np.count_nonzero(plan.count == 1)),
            **times,
            "prepare_ns": outcome.timings.prepare_ns,
            "forward_ns": outcome.timings.forward_ns,
            "sample_ns": outcome.timings.sample_ns,
            "pages_used": ribbons.pages_used,
            "resident_bytes": ribbons.resident_bytes,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
