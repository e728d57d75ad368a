"""Several ranks run one stream of plans: the same tokens as one rank, one of them sampling, and nobody ahead of the others."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from engine.test_no_work_row_by_row import LIMIT, count_calls
from parity.rank_threads import on_ranks
from tiny import Driver, TinyModel, make_engine

from ribbon_server.config import InjectedFaults, KvMemory
from ribbon_server.distributed.base import World
from ribbon_server.engine import shard
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.engine.step import RowStatus, StepOutcome, Wanted
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.open import open_model

PROMPTS = {1: [5, 9, 77, 31, 8, 44, 101, 12], 2: [60, 61, 62], 3: [7]}
SAMPLED = {"greedy": 0, "seed": 3, "temperature": 0.9, "top_k": 40, "repetition_penalty": 1.2, "top_tokens": 2}
TOKENS = 24


def generate_three(driver: Driver) -> list[StepOutcome]:
    """Three sequences in the same steps: a greedy one, a sampled one, one that scores its prompt; one in chunks."""
    driver.seat(1, PROMPTS[1])
    driver.seat(2, PROMPTS[2], **SAMPLED)
    driver.seat(3, PROMPTS[1], prompt_top_tokens=2)
    outcomes = [driver.step({1: 4, 3: 5}, wanted=[0, 2]), driver.step({1: 4, 2: 3, 3: 3}, wanted=[1, 1, 3])]
    return outcomes + [driver.step(dict.fromkeys((1, 2, 3), 1)) for _ in range(TOKENS)]


def on_own_engines(model: TinyModel, world_size: int, work, num_stages: int = 1) -> list:
    """What `work` makes of the driver of every rank."""
    return on_ranks(world_size, lambda world: work(Driver(make_engine(model.folder, world=world))), num_stages)


@pytest.mark.parametrize(("world_size", "num_stages"), [(2, 1), (4, 1), (2, 2), (4, 2)])
def test_ranks_give_the_tokens_and_scores_of_one(tiny_untied: TinyModel, world_size: int, num_stages: int) -> None:
    alone = generate_three(Driver(make_engine(tiny_untied.folder)))
    first, *others = on_own_engines(tiny_untied, world_size, generate_three, num_stages)
    for expected, *found in zip(alone, first, *others, strict=True):
        assert all(outcome.failure == "" for outcome in found)
        for outcome in found:
            assert outcome.token_id.tolist() == expected.token_id.tolist()
            assert outcome.status.tolist() == expected.status.tolist()
        np.testing.assert_allclose(found[0].logprob, expected.logprob, atol=1e-4)
        assert found[0].top_token_id.tolist() == expected.top_token_id.tolist()
        if expected.prompt is not None:
            np.testing.assert_allclose(found[0].prompt.logprob, expected.prompt.logprob, atol=1e-4)


@pytest.mark.parametrize("num_stages", [1, 2])
def test_a_row_that_fails_where_tokens_are_sampled_fails_on_every_rank(tiny_untied: TinyModel, num_stages: int) -> None:
    def spoiled_on_the_first(driver: Driver) -> tuple[list[int], list[int]]:
        driver.seat(1, PROMPTS[1])
        driver.seat(2, PROMPTS[2])
        pick = driver.engine.pick
        if driver.engine.world.rank.index == 0:
            driver.engine.pick = lambda logits, rows: pick(logits.index_fill_(0, torch.tensor([0]), torch.nan), rows)
        outcome = driver.step({1: 8, 2: 3})
        driver.engine.pick = pick
        after = driver.step({2: 1})
        return outcome.status.tolist(), [*outcome.token_id.tolist(), *after.token_id.tolist()]

    first, second = on_own_engines(tiny_untied, 2, spoiled_on_the_first, num_stages)
    assert first[0] == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert first == second


@pytest.mark.parametrize("wanted", [Wanted.PROMPT_LOGPROBS | Wanted.SAMPLE, Wanted.POOLED_MEAN | Wanted.END])
def test_a_prompt_that_fails_in_the_last_stage_fails_in_every_one(tiny_untied: TinyModel, wanted: int) -> None:
    """Its logits and states are there alone; the first stage must not count the tokens as fed."""

    def spoiled_at_the_end(driver: Driver) -> tuple[list[int], list[int]]:
        driver.seat(1, PROMPTS[1], prompt_top_tokens=2)
        if driver.engine.world.stage.is_last:
            driver.engine.decoder.parts.exit.norm.weight[:] = torch.nan
        outcome = driver.step({1: 8}, wanted=[wanted])
        return outcome.status.tolist(), driver.engine.sequences.length.tolist()

    last, first = on_own_engines(tiny_untied, 2, spoiled_at_the_end, num_stages=2)
    assert last[0] == [RowStatus.FAILED]
    assert max(last[1]) == 0
    assert first == last


def test_what_a_plan_alone_decides_fails_the_step_on_every_rank(tiny_untied: TinyModel) -> None:
    def too_long(driver: Driver) -> tuple[str, list[int]]:
        failed = driver.step({}, **driver.open(1, PROMPTS[1], room=10_000))
        driver.close(1)
        return failed.failure, driver.generate(2, PROMPTS[2], 4)

    first, second = on_own_engines(tiny_untied, 2, too_long)
    assert first[0] != ""
    assert first == second


@pytest.mark.parametrize("num_stages", [1, 2])
def test_what_only_one_rank_meets_ends_it(tiny_untied: TinyModel, num_stages: int) -> None:
    """A failed step that the others do not know of would leave them a step ahead for ever."""

    def break_on_the_first(driver: Driver) -> bool:
        driver.seat(1, PROMPTS[1])
        if driver.engine.world.rank.index > 0:
            return True

        def broken(*_: object) -> None:
            raise RuntimeError("the machine is on fire")

        driver.engine.decoder.forward = broken
        with pytest.raises(RuntimeError, match="on fire"):
            driver.step({1: 8})
        return True

    assert on_own_engines(tiny_untied, 2, break_on_the_first, num_stages) == [True, True]


def test_a_rank_does_no_work_row_by_row(tiny_untied: TinyModel) -> None:
    def steady_steps(world: World) -> list[int]:
        driver = Driver(make_engine(tiny_untied.folder, concurrent=64, world=world))
        for slot in range(1, 65):
            driver.seat(slot, [5, 6, 7 + slot])
        driver.step(dict.fromkeys(range(1, 65), 3))
        counts = []
        for rows in (1, 1, 64):  # the first one warms up
            plan = driver.plan(dict.fromkeys(range(1, 1 + rows), 1))
            counts.append(count_calls(lambda plan=plan: driver.engine.step(plan)))
        return counts

    for _, one, many in on_ranks(2, steady_steps):
        assert one > 50
        assert many <= LIMIT * one


@pytest.fixture
def unequal_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every rank finds another amount; the smallest is the last."""
    found, lock = [2**31, 2**28], threading.Lock()
    left = list(found)

    def memory() -> int:
        with lock:
            return left.pop()

    monkeypatch.setattr(shard, "memory_limit_bytes", memory)
    yield found
    assert left == []


def test_the_smallest_rank_says_how_much_fits(tiny_untied: TinyModel, unequal_memory: list[int]) -> None:
    wish = WarmupWish(max_batch_prefill_tokens=64, max_total_tokens=64, max_concurrent_requests=2)

    def pages(world: World) -> int:
        model = open_model(tiny_untied.folder, None, native_kernels(), world=world)
        return shard.warm_up(model, wish, KvMemory(fraction=0.25), InjectedFaults()).engine.ribbons.limits.num_pages

    assert on_ranks(2, pages) == [min(unequal_memory) // 2 // 4 // 4096] * 2


def test_ranks_choose_the_same_budget_whoever_is_slow(tiny_untied: TinyModel) -> None:
    wish = WarmupWish(max_batch_prefill_tokens=0, max_total_tokens=64, max_concurrent_requests=2)

    def figures(world: World) -> tuple[int, int, int]:
        model = open_model(tiny_untied.folder, None, native_kernels(), world=world)
        found = shard.warm_up(model, wish, KvMemory(num_bytes=2**24), InjectedFaults()).figures
        return found.budget, found.decode_step_ns, found.slowest_step_ns

    first, second = on_ranks(2, figures)
    assert first == second
