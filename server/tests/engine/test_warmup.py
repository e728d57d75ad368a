"""The step budget: chosen by the clock between 64 and 4,096, or taken as given."""

import pytest
from tiny import TinyModel, make_engine, save_tiny

from ribbon_server.engine.warmup import Warmup, closing_plan, opening_plan

LIMIT_NS = 200_000_000


class Clocked(Warmup):
    """A warm-up whose steps take a made-up time a token."""

    def __init__(self, ns_a_token: int, max_positions: int, largest: int = 100_000) -> None:
        self._max_positions = max_positions
        self._largest = largest
        self._ns_a_token = ns_a_token
        self.measured: list[int] = []

    def _measure(self, num_tokens: int) -> int:
        self.measured.append(num_tokens)
        return num_tokens * self._ns_a_token


@pytest.mark.parametrize(
    ("ns_a_token", "max_positions", "budget"),
    [
        (1, 131_072, 4096),
        (1, 512, 512),
        (1, 700, 512),
        (LIMIT_NS // 512, 4096, 512),
        (LIMIT_NS // 511, 4096, 256),
        (LIMIT_NS, 4096, 64),
    ],
)
def test_the_budget_is_the_largest_power_of_two_that_stays_quick(
    ns_a_token: int, max_positions: int, budget: int
) -> None:
    warmup = Clocked(ns_a_token, max_positions)
    figures = warmup.run(0)
    assert figures.budget == budget
    assert figures.decode_step_ns == ns_a_token
    assert figures.slowest_step_ns == budget * ns_a_token
    assert figures.prompt_token_ns == ns_a_token
    assert max(warmup.measured) <= 2 * budget


@pytest.mark.parametrize(("largest", "budget"), [(5, 5), (64, 64), (127, 64), (1000, 512)])
def test_a_budget_that_the_memory_cannot_hold_is_not_chosen(largest: int, budget: int) -> None:
    warmup = Clocked(1, 4096, largest)
    figures = warmup.run(0)
    assert (figures.budget, figures.slowest_step_ns) == (budget, budget)
    assert max(warmup.measured) <= largest


def test_a_given_budget_above_the_memory_is_kept_and_its_largest_step_measured(caplog) -> None:
    warmup = Clocked(7, 4096, 300)
    figures = warmup.run(1000)
    assert (figures.budget, figures.slowest_step_ns, figures.prompt_token_ns) == (1000, 300 * 7, 7)
    assert "`max_batch_prefill_tokens` is 1000, but the KV memory holds 300 tokens" in caplog.text


@pytest.mark.parametrize("pages", [3, 20, 47, 200])
def test_the_largest_step_fits_the_pool(tiny_untied: TinyModel, pages: int) -> None:
    engine = make_engine(tiny_untied.folder, kv_bytes=pages * 4096, total=0)
    warmup = Warmup(engine, 256)
    assert warmup._measure(warmup._largest) > 0
    assert engine.ribbons.pages_used == 0


@pytest.mark.parametrize("pages", [5, 60, 200])
def test_the_largest_step_of_two_groups_fits_their_pool(tmp_path, pages: int) -> None:
    engine = make_engine(save_tiny(tmp_path, "MinistralForCausalLM").folder, kv_bytes=pages * 4096, total=0)
    warmup = Warmup(engine, 256)
    assert warmup._measure(warmup._largest) > 0
    assert engine.ribbons.pages_used == 0


def test_a_given_budget_is_taken_and_measured() -> None:
    warmup = Clocked(LIMIT_NS, 4096)
    assert warmup.run(1000).budget == 1000
    assert set(warmup.measured) == {1, 1000}


def test_a_warm_engine_is_empty(tiny_untied: TinyModel) -> None:
    engine = make_engine(tiny_untied.folder)
    assert engine.ribbons.pages_used == 0
    assert not engine.sequences.is_seated.any()


def test_a_budget_above_a_slot_is_spread_over_several(tiny_untied: TinyModel) -> None:
    engine = make_engine(tiny_untied.folder)
    outcome = engine.step(opening_plan(1, [256, 256, 100]))
    assert (outcome.failure, outcome.errors) == ("", [])
    assert engine.sequences.length[1:4].tolist() == [256, 256, 100]
    assert engine.step(closing_plan(2, 3)).failure == ""
    assert engine.ribbons.pages_used == 0
