"""Pooled states: those of transformers, whole and in chunks, alone and in a batch; and a row that fails alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_no_work_row_by_row import LIMIT, count_calls
from tiny import Driver, TinyModel, make_engine

from ribbon_server.engine.step import RowStatus, StepOutcome, Wanted

PROMPT = [5, 9, 77, 31, 8, 44, 101, 12]
OTHER = [60, 61, 62]
KINDS = {"mean": Wanted.POOLED_MEAN, "last": Wanted.POOLED_LAST}


@pytest.fixture
def driver(tiny_untied: TinyModel) -> Driver:
    return Driver(make_engine(tiny_untied.folder))


def reference(model: TinyModel, tokens: list[int], kind: str) -> np.ndarray:
    """The last hidden states of transformers, pooled."""
    with torch.inference_mode():
        states = model.reference.base_model(torch.tensor([tokens])).last_hidden_state[0].double()
    return (states.mean(dim=0) if kind == "mean" else states[-1]).numpy()


def vectors(outcome: StepOutcome) -> list[np.ndarray]:
    """Each row's vector, empty where it has none."""
    assert int(outcome.pooled_count.sum()) == len(outcome.pooled)
    return np.split(outcome.pooled, np.cumsum(outcome.pooled_count)[:-1])


def in_chunks(driver: Driver, kind: str, chunk: int, prompt: list[int] = PROMPT) -> np.ndarray:
    driver.seat(1, prompt)
    for begin in range(0, len(prompt), chunk):
        count = min(chunk, len(prompt) - begin)
        end = Wanted.END if begin + count == len(prompt) else Wanted.NONE
        outcome = driver.step({1: count}, wanted=[KINDS[kind] | end])
        assert outcome.status.tolist() == [RowStatus.FED]
        assert bool(end) == bool(outcome.pooled.size)
    driver.close(1)
    return vectors(outcome)[0]


@pytest.mark.parametrize("chunk", [1, 3, 7, 8])
@pytest.mark.parametrize("kind", list(KINDS))
def test_whole_and_in_chunks_they_are_those_of_transformers(driver, tiny_untied, kind: str, chunk: int) -> None:
    np.testing.assert_allclose(in_chunks(driver, kind, chunk), reference(tiny_untied, PROMPT, kind), atol=1e-5)


def test_a_slot_remembers_nothing_of_who_sat_there_before(driver, tiny_untied) -> None:
    in_chunks(driver, "mean", 3)
    driver.seat(1, PROMPT)
    driver.step({1: 4}, wanted=[Wanted.POOLED_MEAN])
    driver.close(1)
    np.testing.assert_allclose(in_chunks(driver, "mean", 2, OTHER), reference(tiny_untied, OTHER, "mean"), atol=1e-5)


def test_rows_that_are_pooled_sit_beside_all_others(driver, tiny_untied) -> None:
    driver.seat(1, OTHER)
    first = driver.step({1: len(OTHER)}).token_id[0]
    for slot in (2, 3, 4, 5):
        driver.seat(slot, PROMPT)
    outcome = driver.step(
        {1: 1, 2: 8, 3: 8, 4: 8, 5: 5},
        wanted=[
            Wanted.SAMPLE,
            Wanted.END | Wanted.POOLED_MEAN,
            Wanted.SAMPLE | Wanted.PROMPT_LOGPROBS,
            Wanted.END | Wanted.POOLED_LAST | Wanted.PROMPT_LOGPROBS,
            Wanted.POOLED_MEAN,
        ],
    )
    sampled, fed = RowStatus.SAMPLED, RowStatus.FED
    assert outcome.status.tolist() == [sampled, fed, sampled, fed, fed]
    assert outcome.prompt_count.tolist() == [0, 0, 7, 7, 0]
    found = vectors(outcome)
    assert [len(vector) > 0 for vector in found] == [False, True, False, True, False]
    np.testing.assert_allclose(found[1], reference(tiny_untied, PROMPT, "mean"), atol=1e-5)
    np.testing.assert_allclose(found[3], reference(tiny_untied, PROMPT, "last"), atol=1e-5)
    expected = [tiny_untied.logits([*OTHER, int(first)])[-1], tiny_untied.logits(PROMPT)[-1]]
    assert outcome.token_id[[0, 2]].tolist() == [int(logits.argmax()) for logits in expected]
    rest = driver.step({5: 3}, wanted=[Wanted.END | Wanted.POOLED_MEAN])
    np.testing.assert_allclose(vectors(rest)[0], reference(tiny_untied, PROMPT, "mean"), atol=1e-5)


def test_an_end_alone_reads_the_prompt_and_scores_it(driver: Driver) -> None:
    driver.seat(1, PROMPT)
    outcome = driver.step({1: 8}, wanted=[Wanted.END | Wanted.PROMPT_LOGPROBS])
    assert (outcome.status.tolist(), outcome.prompt_count.tolist()) == ([RowStatus.FED], [7])
    driver.seat(2, OTHER)
    assert driver.step({2: 3}, wanted=[Wanted.END]).status.tolist() == [RowStatus.FED]


BAD = {
    "ends too early": (3, Wanted.END),
    "pooled two ways": (8, Wanted.END | Wanted.POOLED_MEAN | Wanted.POOLED_LAST),
    "samples and is pooled": (8, Wanted.SAMPLE | Wanted.POOLED_LAST),
    "ends in two ways": (8, Wanted.SAMPLE | Wanted.END),
    "goes to the end and goes on": (8, Wanted.POOLED_MEAN),
    "unknown": (8, 32),
}


@pytest.mark.parametrize(("count", "wanted"), BAD.values(), ids=list(BAD))
def test_wishes_that_contradict_themselves_fail_by_name(driver: Driver, count: int, wanted: int) -> None:
    driver.seat(1, PROMPT)
    outcome = driver.step({1: count}, wanted=[wanted])
    assert outcome.status.tolist() == [RowStatus.FAILED]
    assert f"wanted {int(wanted)} does not fit" in outcome.errors[0][1]


def test_a_row_whose_states_are_no_numbers_fails_alone(driver, tiny_untied, monkeypatch) -> None:
    driver.seat(1, PROMPT)
    driver.seat(2, OTHER)
    states = driver.engine.decoder.states

    def spoilt(*arguments):
        made = states(*arguments)
        made[2, 0] = float("nan")
        return made

    monkeypatch.setattr(driver.engine.decoder, "states", spoilt)
    outcome = driver.step({1: 8, 2: 3}, wanted=[Wanted.END | Wanted.POOLED_MEAN] * 2)
    assert outcome.status.tolist() == [RowStatus.FAILED, RowStatus.FED]
    assert outcome.errors == [(0, "the states are not finite; the sequence cannot go on")]
    assert driver.engine.sequences.length[[1, 2]].tolist() == [0, len(OTHER)]
    np.testing.assert_allclose(vectors(outcome)[1], reference(tiny_untied, OTHER, "mean"), atol=1e-5)


def test_a_failed_step_leaves_the_sum_as_it_was(driver, tiny_untied, monkeypatch) -> None:
    driver.seat(1, PROMPT)
    driver.seat(2, OTHER)
    driver.step({1: 4}, wanted=[Wanted.POOLED_MEAN])

    def burn(_logits, _rows):
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(driver.engine, "pick", burn)
        failed = driver.step({1: 4, 2: 3}, wanted=[Wanted.END | Wanted.POOLED_MEAN, Wanted.SAMPLE])
    assert "fire" in failed.failure
    assert (failed.pooled.size, failed.pooled_count.tolist()) == (0, [0, 0])
    driver.step({1: 4, 2: 3}, wanted=[Wanted.END | Wanted.POOLED_MEAN, Wanted.SAMPLE])  # answered cancelled
    outcome = driver.step({1: 4}, wanted=[Wanted.END | Wanted.POOLED_MEAN])
    np.testing.assert_allclose(vectors(outcome)[0], reference(tiny_untied, PROMPT, "mean"), atol=1e-5)


def test_a_step_that_pools_does_no_work_row_by_row(tiny_untied: TinyModel) -> None:
    def calls(rows: int) -> int:
        driver = Driver(make_engine(tiny_untied.folder, concurrent=64))
        for slot in range(1, rows + 1):
            driver.seat(slot, [5, 6, 7 + slot])
        wanted = [Wanted.END | Wanted.POOLED_MEAN] * rows
        plan = driver.plan(dict.fromkeys(range(1, rows + 1), 3), wanted=wanted)
        return count_calls(lambda: driver.engine.step(plan))

    one, many = calls(1), calls(21)
    assert many <= LIMIT * one
