"""The Run stream's ends, with an engine that misbehaves on purpose."""

import contextlib
import threading

import pytest

from ribbon_server.engine.step import new_outcome
from ribbon_server.pb import shard_pb2 as pb
from ribbon_server.service.stream import QUEUED_OUTCOMES, QUEUED_PLANS, RunStream

PATIENCE = 5.0


class FakeEngine:
    """Answers every plan with nothing, or breaks at a chosen one."""

    def __init__(self, breaks_at: int = 0) -> None:
        self.breaks_at = breaks_at
        self.stepped: list[int] = []
        self.expected: list[int] = []
        self.resets = 0

    def expect(self, plan) -> None:
        assert plan.step_id not in self.stepped  # a plan is named before it runs, or not at all
        self.expected.append(plan.step_id)

    def step(self, plan):
        if plan.step_id == self.breaks_at:
            raise TypeError("our own mistake")
        self.stepped.append(plan.step_id)
        return new_outcome(plan)

    def reset(self) -> None:
        self.resets += 1


def in_thread(work, *arguments) -> threading.Thread:
    def quiet() -> None:
        with contextlib.suppress(TypeError):
            work(*arguments)

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    return thread


def plans(count: int):
    return iter([pb.StepPlan(step_id=number) for number in range(1, count + 1)])


def test_every_plan_is_answered_in_order_and_then_all_is_reset() -> None:
    engine = FakeEngine()
    stream = RunStream(engine, None)
    threads = [in_thread(stream.read, plans(100)), in_thread(stream.compute)]
    assert [outcome.step_id for outcome in stream.outcomes()] == list(range(1, 101))
    for thread in threads:
        thread.join(PATIENCE)
    assert (engine.resets, stream.error) == (1, "")
    assert engine.expected == engine.stepped


def test_a_step_loop_that_breaks_ends_the_stream_and_says_so() -> None:
    engine = FakeEngine(breaks_at=3)
    stream = RunStream(engine, None)
    threads = [in_thread(stream.read, plans(100)), in_thread(stream.compute)]
    assert [outcome.step_id for outcome in stream.outcomes()] == [1, 2]
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert stream.broke
    assert "our own mistake" in stream.error
    assert engine.resets == 1


def test_a_client_that_does_not_read_holds_the_step_loop_and_not_the_memory() -> None:
    engine = FakeEngine()
    stream = RunStream(engine, None)
    threads = [in_thread(stream.read, plans(1000)), in_thread(stream.compute)]
    threads[1].join(0.5)
    assert threads[1].is_alive()
    assert len(engine.stepped) <= QUEUED_OUTCOMES + QUEUED_PLANS
    stream.client_gone()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert engine.resets == 1
    assert len(engine.stepped) < 100


@pytest.mark.parametrize("step_ids", [[2], [1, 1], [1, 3]])
def test_a_plan_out_of_order_ends_the_stream(step_ids: list[int]) -> None:
    stream = RunStream(FakeEngine(), None)
    in_thread(stream.read, iter([pb.StepPlan(step_id=number) for number in step_ids]))
    in_thread(stream.compute)
    assert len(list(stream.outcomes())) == len(step_ids) - 1
    assert f"step_id is {step_ids[-1]}" in stream.error
    assert not stream.broke
