"""The yardsticks of the benchmarks, on cases small enough to see: possible prefix hits, waste of other allocators, idle gaps."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from load import report
from load.claims import BOUNDS, Claim
from load.lengths import CAP, OUTPUT_MEAN, PROMPT_MEAN, lognormal_trace
from load.paging import wastes
from load.prefixes import Possible
from load.step_log import Step, idle_between


def longest_common(one: list[int], other: list[int]) -> int:
    """Tokens in common at the front, counted one by one."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_possible_hits_are_those_of_the_plain_definition() -> None:
    rng, possible, earlier = random.Random(0), Possible(), []
    for _ in range(400):
        prompt = [rng.choice([1, 2, 300]) for _ in range(rng.randint(1, 12))]
        expected = min(max((longest_common(prompt, other) for other in earlier), default=0), len(prompt) - 1)
        assert possible.submit(prompt) == expected
        earlier.append(prompt)
        if rng.random() < 0.5:
            generated = [rng.choice([1, 2, 300]) for _ in range(rng.randint(1, 5))]
            possible.generated(prompt, generated)
            earlier.append([*prompt, *generated[:-1]])
    assert possible.hit_tokens > 0


def test_waste_of_each_allocator_on_two_sequences() -> None:
    found = wastes(np.array([48, 100]), cap=1_000, stride_bytes=64, page_bytes=4_096)
    assert found == pytest.approx(
        {
            "max-length": 1 - 148 / 2_000,
            "power of two": 1 - 148 / (64 + 128),
            "pages of 16 tokens": 1 - 148 / (48 + 112),
            "ribbon, computed": 1 - 148 / (64 + 128),
        }
    )


def test_the_trace_has_the_lengths_it_promises() -> None:
    trace = lognormal_trace(20_000)
    assert np.mean([one.prompt for one in trace]) == pytest.approx(PROMPT_MEAN, rel=0.05)
    assert np.mean([one.output for one in trace]) == pytest.approx(OUTPUT_MEAN, rel=0.05)
    assert max(one.prompt + one.output for one in trace) == CAP
    assert trace[:100] == lognormal_trace(20_000)[:100]


def test_idle_gaps_count_between_full_neighbours_only() -> None:
    def step(step_id: int, rows: int, started: int, ended: int) -> Step:
        return Step(step_id, rows, 0, rows, 0, started, ended, 0)

    steps = [step(1, 1, 0, 10), step(2, 4, 50, 150), step(3, 4, 153, 253), step(5, 4, 400, 500), step(6, 4, 501, 601)]
    idle = idle_between(steps, rows=4)
    assert idle is not None
    assert (idle.gaps, idle.share_of_step) == (2, pytest.approx((3 + 1) / 200))
    assert idle_between(steps, rows=5) is None


@pytest.mark.parametrize("name", BOUNDS)
def test_a_claim_holds_on_one_side_of_its_bound_only(name: str) -> None:
    relation, bound = BOUNDS[name]
    sides = [Claim(name, bound - 0.01).holds, Claim(name, bound + 0.01).holds]
    assert sides == ([False, True] if relation == "≥" else [True, False])
    assert Claim(name, bound).holds == (relation != "<")
    assert not Claim(name, float("nan")).holds


def test_a_missed_claim_is_named_and_ends_the_program_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    record: report.Record = {"name": "try"}
    claims = [Claim("largest KV waste", 0.001), Claim("mask p50, µs", 51.0)]
    with pytest.raises(SystemExit) as end:
        report.finish(record, "figures", save_it=False, claims=claims)
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[4].strip() for line in lines if line.startswith(("| largest", "| mask"))] == [
        "holds",
        "misses",
    ]
    assert [one["holds"] for one in json.loads(lines[-1])["claims"]] == [True, False]


def test_claims_that_hold_end_it_well(capsys: pytest.CaptureFixture[str]) -> None:
    report.finish({"name": "try"}, "figures", save_it=False, claims=[Claim("largest KV waste", 0.001)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["holds"] is True
