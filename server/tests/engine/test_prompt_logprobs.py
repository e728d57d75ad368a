"""Logprobs of prompt tokens: the same whole and in chunks, alone and in a batch, and a row that fails alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_no_work_row_by_row import LIMIT, count_calls
from tiny import Driver, TinyModel, make_engine

from ribbon_server.engine import forward as forward_module
from ribbon_server.engine.step import RowStatus, StepOutcome, Wanted

PROMPT = [5, 9, 77, 31, 8, 44, 101, 12]
OTHER = [60, 61, 62]
SCORE, BOTH = Wanted.PROMPT_LOGPROBS, Wanted.SAMPLE | Wanted.PROMPT_LOGPROBS


@pytest.fixture
def driver(tiny_untied: TinyModel) -> Driver:
    return Driver(make_engine(tiny_untied.folder))


def reference(model: TinyModel, tokens: list[int]) -> np.ndarray:
    """Log-softmax behind each token, [tokens, vocab]."""
    return model.logits(tokens).double().log_softmax(-1).numpy()


def rows_of(outcome: StepOutcome) -> list[list[float]]:
    """Each row's prompt logprobs."""
    if outcome.prompt is None:
        return [[] for _ in outcome.slot]
    ends = np.cumsum(outcome.prompt_count)
    assert int(ends[-1]) == len(outcome.prompt.logprob) == len(outcome.prompt.top_count)
    return [part.tolist() for part in np.split(outcome.prompt.logprob, ends[:-1])]


def in_chunks(driver: Driver, chunk: int) -> list[float]:
    driver.seat(1, PROMPT)
    scores: list[float] = []
    for begin in range(0, len(PROMPT), chunk):
        count = min(chunk, len(PROMPT) - begin)
        is_last = begin + count == len(PROMPT)
        outcome = driver.step({1: count}, wanted=[BOTH if is_last else SCORE])
        assert outcome.status[0] == (RowStatus.SAMPLED if is_last else RowStatus.FED)
        scores += rows_of(outcome)[0]
    driver.close(1)
    return scores


@pytest.mark.parametrize("chunk", [1, 3, 7, 8])
def test_whole_and_in_chunks_they_are_those_of_transformers(driver, tiny_untied, chunk: int) -> None:
    scores = in_chunks(driver, chunk)
    expected = reference(tiny_untied, PROMPT)[np.arange(len(PROMPT) - 1), PROMPT[1:]]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_sampled_token_is_the_same_with_and_without(driver: Driver) -> None:
    plain = driver.generate(1, PROMPT, 1)
    driver.seat(1, PROMPT)
    outcome = driver.step({1: len(PROMPT)}, wanted=[BOTH])
    assert outcome.token_id.tolist() == plain


def test_parameters_of_sampling_do_not_touch_them(driver, tiny_untied) -> None:
    driver.seat(1, PROMPT, greedy=0, seed=4, temperature=0.3, top_k=2, repetition_penalty=2.0, bias={9: 50.0})
    outcome = driver.step({1: len(PROMPT)}, wanted=[BOTH])
    expected = reference(tiny_untied, PROMPT)[np.arange(len(PROMPT) - 1), PROMPT[1:]]
    np.testing.assert_allclose(rows_of(outcome)[0], expected, atol=1e-4)


def test_top_tokens_stand_beside_each_that_wants_them(driver, tiny_untied) -> None:
    driver.seat(1, PROMPT, prompt_top_tokens=3)
    driver.seat(2, OTHER)
    outcome = driver.step({1: len(PROMPT), 2: len(OTHER)}, wanted=[BOTH, BOTH])
    assert outcome.prompt_count.tolist() == [len(PROMPT) - 1, len(OTHER) - 1]
    assert outcome.prompt.top_count.tolist() == [3] * (len(PROMPT) - 1) + [0] * (len(OTHER) - 1)
    expected = reference(tiny_untied, PROMPT)[:-1]
    best = np.argsort(-expected, axis=1)[:, :3]
    assert outcome.prompt.top_token_id.reshape(-1, 3).tolist() == best.tolist()
    np.testing.assert_allclose(
        outcome.prompt.top_logprob.reshape(-1, 3), np.take_along_axis(expected, best, 1), atol=1e-4
    )


def test_neighbours_that_want_none_get_none_and_stay_the_same(driver, tiny_untied) -> None:
    driver.seat(1, OTHER)
    first = driver.step({1: len(OTHER)}).token_id[0]
    driver.seat(2, PROMPT)
    driver.seat(3, PROMPT[::-1])
    outcome = driver.step({1: 1, 2: 5, 3: 8}, wanted=[Wanted.SAMPLE, SCORE, Wanted.SAMPLE])
    assert outcome.prompt_count.tolist() == [0, 5, 0]
    assert outcome.status.tolist() == [RowStatus.SAMPLED, RowStatus.FED, RowStatus.SAMPLED]
    decoded = reference(tiny_untied, [*OTHER, int(first)])[-1]
    reversed_prompt = reference(tiny_untied, PROMPT[::-1])[-1]
    assert outcome.token_id[[0, 2]].tolist() == [int(decoded.argmax()), int(reversed_prompt.argmax())]


def test_generated_tokens_of_a_resumed_sequence_are_no_prompt(driver: Driver) -> None:
    driver.seat(1, PROMPT, prompt=5)
    outcome = driver.step({1: len(PROMPT)}, wanted=[BOTH])
    assert outcome.prompt_count.tolist() == [4]
    assert driver.step({1: 1}, wanted=[BOTH]).prompt is None


def test_a_long_chunk_is_scored_in_blocks(driver: Driver, monkeypatch) -> None:
    whole = in_chunks(driver, len(PROMPT))
    monkeypatch.setattr(forward_module, "SCORED_LOGITS", 3 * driver.engine.sequences.vocab_size)
    blocks = []
    logits = driver.engine.decoder.logits
    monkeypatch.setattr(driver.engine.decoder, "logits", lambda states: blocks.append(len(states)) or logits(states))
    np.testing.assert_allclose(in_chunks(driver, len(PROMPT)), whole, atol=1e-5)
    assert blocks == [1, 3, 3, 1]


def test_a_row_whose_prompt_scores_are_no_numbers_fails_alone(driver: Driver, monkeypatch) -> None:
    driver.seat(1, PROMPT)
    driver.seat(2, OTHER)
    logits = driver.engine.decoder.logits

    def spoilt(states: torch.Tensor) -> torch.Tensor:
        scores = logits(states)
        if len(scores) == len(PROMPT) + len(OTHER) - 2:
            scores[2, 5] = float("nan")
        return scores

    monkeypatch.setattr(driver.engine.decoder, "logits", spoilt)
    outcome = driver.step({1: len(PROMPT), 2: len(OTHER)}, wanted=[BOTH, BOTH])
    assert outcome.status.tolist() == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert outcome.errors == [(0, "the logits are not finite; the sequence cannot go on")]
    sequences = driver.engine.sequences
    assert sequences.length[[1, 2]].tolist() == [0, len(OTHER)]
    assert sequences.state.known[[1, 2]].tolist() == [len(PROMPT), len(OTHER) + 1]


def test_a_failed_step_says_nothing_of_prompts(driver: Driver, monkeypatch) -> None:
    driver.seat(1, PROMPT)

    def burn(_logits, _rows):
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(driver.engine, "pick", burn)
    outcome = driver.step({1: len(PROMPT)}, wanted=[BOTH])
    assert "fire" in outcome.failure
    assert outcome.prompt is None
    assert outcome.prompt_count.tolist() == [0]


def test_a_step_that_scores_prompts_does_no_work_row_by_row(tiny_untied: TinyModel) -> None:
    def calls(rows: int) -> int:
        driver = Driver(make_engine(tiny_untied.folder, concurrent=64))
        for slot in range(1, rows + 1):
            driver.seat(slot, [5, 6, 7 + slot], prompt_top_tokens=2)
        plan = driver.plan(dict.fromkeys(range(1, rows + 1), 3), wanted=[BOTH] * rows)
        return count_calls(lambda: driver.engine.step(plan))

    one, many = calls(1), calls(21)  # 63 tokens: a budget's worth
    assert many <= LIMIT * one
