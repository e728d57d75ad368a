"""The step budget: chosen by the clock between 64 and 4,096, or taken as given."""

import pytest
from tiny import TinyModel, make_engine

from ribbon_server.engine.warmup import Warmup, closing_plan, opening_plan

LIMIT_NS = 200_000_000


class Clocked(Warmup):
    """A warm-up whose steps take a made-up time a token."""

    def __init__(self, ns_a_token: int, max_positions: int) -> None:
        self._max_positions = max_positions
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
    assert max(warmup.measured) <= 2 * budget


def test_a_given_budget_is_taken_and_measured() -> None:
    warmup = Clocked(LIMIT_NS, 4096)
    assert warmup.run(1000).budget == 1000
    assert set(warmup.measured) == {1, 1000}


def test_a_warm_engine_is_empty(tiny_untied: TinyModel) -> None:
    engine = make_engine(tiny_untied.folder)
    assert engine.ribbons.region.pages_used == 0
    assert not engine.sequences.is_seated.any()


def test_a_budget_above_a_slot_is_spread_over_several(tiny_untied: TinyModel) -> None:
    engine = make_engine(tiny_untied.folder)
    outcome = engine.step(opening_plan(1, [256, 256, 100]))
    assert (outcome.failure, outcome.errors) == ("", [])
    assert engine.sequences.length[1:4].tolist() == [256, 256, 100]
    assert engine.step(closing_plan(2, 3)).failure == ""
    assert engine.ribbons.region.pages_used == 0
