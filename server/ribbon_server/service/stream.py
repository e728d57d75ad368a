"""One Run stream: a reader, the step loop and the sender, pipelined over bounded queues. Knows order and ends, not steps' content."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from ribbon_server.engine.engine import Engine
from ribbon_server.engine.step import StepOutcome, StepPlan
from ribbon_server.engine.step_log import StepLog
from ribbon_server.errors import InvalidRequest
from ribbon_server.pb import shard_pb2 as pb
from ribbon_server.service.wire import empty_plan, outcome_to_wire, plan_from_wire
from ribbon_server.telemetry import log

QUEUED_PLANS = 4  # the router sends two; more wait in gRPC's flow control
QUEUED_OUTCOMES = 16
POLL_SECONDS = 0.2  # how long the end of a stream may go unnoticed behind a full queue

Item = TypeVar("Item")


@dataclass(frozen=True)
class Received:
    """A plan as it came off the stream, and why it cannot be run, if so."""

    plan: StepPlan
    received_ns: int
    refusal: str = ""


class RunStream:
    """Its three parts run in a thread each: `read`, `compute` (the shard's one compute thread) and `outcomes` (gRPC's)."""

    def __init__(self, engine: Engine, step_log: StepLog | None) -> None:
        """Nothing runs yet."""
        self.error = ""  # why the stream ended, where it did not end well
        self.broke = False  # for a reason of ours, not of the plans
        self._engine = engine
        self._step_log = step_log
        self._plans: queue.Queue[Received | None] = queue.Queue(QUEUED_PLANS)
        self._outcomes: queue.Queue[pb.StepOutcome | None] = queue.Queue(QUEUED_OUTCOMES)
        self._client_gone = threading.Event()
        self._computed = threading.Event()
        self._sent_ns = 0
        self._next_step_id = 1

    def client_gone(self) -> None:
        """Nobody reads outcomes any more: what is queued is dropped, the step that runs is the last."""
        self._client_gone.set()

    def read(self, messages: Iterator[pb.StepPlan]) -> None:
        """Parses plans while steps run, until the client stops sending."""
        try:
            for message in messages:
                received = _receive(message)
                self._engine.expect(received.plan)
                if not _put(self._plans, received, self._computed):
                    return
        except Exception as error:  # noqa: BLE001 - gRPC raises a bare Exception where a stream was cancelled
            log(logging.INFO, f"the plan stream broke off: {error!r}")
            self.client_gone()
        _put(self._plans, None, self._computed)

    def compute(self) -> None:
        """Runs plans in order until the stream ends, then gives every slot back."""
        try:
            while (received := self._next_plan()) is not None and not self.error:
                _put(self._outcomes, outcome_to_wire(self._step(received)), self._client_gone)
        except BaseException as error:
            self.error, self.broke = f"the step loop broke: {error!r}", True
            raise
        finally:
            self._computed.set()
            self._give_back()

    def _give_back(self) -> None:
        """Closes every slot. The client hears of the end even where that fails."""
        try:
            self._engine.reset()
        except BaseException as error:
            self.error, self.broke = f"the KV memory could not be given back: {error!r}", True
            raise
        finally:
            self._end_outcomes()

    def outcomes(self) -> Iterator[pb.StepOutcome]:
        """Answers in the order of the plans."""
        while (outcome := self._outcomes.get()) is not None:
            self._sent_ns = time.monotonic_ns()
            yield outcome

    def _next_plan(self) -> Received | None:
        """None when there is none to come, or when one came out of order."""
        while not self._client_gone.is_set():
            try:
                received = self._plans.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            return received if received is None or self._is_next(received.plan.step_id) else None
        return None

    def _is_next(self, step_id: int) -> bool:
        if step_id != self._next_step_id:
            self.error = f"step_id is {step_id}; the next one is {self._next_step_id}"
            return False
        self._next_step_id += 1
        return True

    def _step(self, received: Received) -> StepOutcome:
        started_ns = time.monotonic_ns()
        engine = self._engine
        outcome = engine.refuse(received.plan, received.refusal) if received.refusal else engine.step(received.plan)
        if self._step_log is not None:
            times = {
                "received_ns": received.received_ns,
                "started_ns": started_ns,
                "ended_ns": time.monotonic_ns(),
                "previous_outcome_sent_ns": self._sent_ns,  # read now: the sender had this whole step's time
            }
            self._step_log.write(received.plan, outcome, times, engine.ribbons)
        return outcome

    def _end_outcomes(self) -> None:
        """Ends `outcomes`, also where nobody empties its queue any more."""
        while not _put(self._outcomes, None, self._client_gone):
            while not self._outcomes.empty():
                self._outcomes.get_nowait()
            self._client_gone.clear()


def _receive(message: pb.StepPlan) -> Received:
    received_ns = time.monotonic_ns()
    try:
        return Received(plan_from_wire(message), received_ns)
    except InvalidRequest as error:
        return Received(empty_plan(message), received_ns, str(error))


def _put(target: "queue.Queue[Item]", item: Item, gives_up: threading.Event) -> bool:
    """Waits for room; false where `gives_up` was set meanwhile."""
    while not gives_up.is_set():
        try:
            target.put(item, timeout=POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
