"""Processors and filters against transformers' own, row by row: what is kept, and the log-softmax of it."""

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from ribbon_server.sampling.params import SamplingParams, parameters
from ribbon_server.sampling.sampler import Picks, pick, process
from ribbon_server.sampling.state import SamplingState

VOCAB, ROWS = 200, 12
EVERYTHING = 230  # top tokens: more than the vocabulary has

FILTERS = {
    "temperature": ({"temperature": 0.6}, [theirs.TemperatureLogitsWarper(0.6)]),
    "top_k": ({"top_k": 9}, [theirs.TopKLogitsWarper(9)]),
    "top_p": ({"top_p": 0.8}, [theirs.TopPLogitsWarper(0.8)]),
    "min_p": ({"min_p": 0.1}, [theirs.MinPLogitsWarper(0.1)]),
    "typical_p": ({"typical_p": 0.7}, [theirs.TypicalLogitsWarper(0.7)]),
    "all in the order of the contract": (
        {"temperature": 1.4, "top_k": 60, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
        [
            theirs.TemperatureLogitsWarper(1.4),
            theirs.TopKLogitsWarper(60),
            theirs.TopPLogitsWarper(0.95),
            theirs.MinPLogitsWarper(0.02),
            theirs.TypicalLogitsWarper(0.9),
        ],
    ),
}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(12).normal(0, 2.5, (ROWS, VOCAB)).astype(np.float32))


def histories() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, VOCAB, int(rng.integers(4, 40))) for _ in range(ROWS)]


def seated(stops: tuple[int, ...] = (), **given: float) -> tuple[SamplingState, np.ndarray]:
    state = SamplingState(ROWS + 1, 64)
    for slot, history in enumerate(histories(), 1):
        params = SamplingParams(parameters(**given), np.array(stops, np.uint32))
        state.put(slot, history, 4, params)
    return state, np.arange(1, ROWS + 1)


def listed(picks: Picks, row: int) -> np.ndarray:
    """Logprobs [vocab] of the tokens that were kept, -inf for the others."""
    count = int(picks.top_count[row])
    logprobs = np.full(VOCAB, -np.inf, np.float32)
    logprobs[picks.top_token_id[row, :count]] = picks.top_logprob[row, :count]
    return logprobs


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_what_transformers_keep(name: str, logits: torch.Tensor) -> None:
    given, warpers = FILTERS[name]
    state, slots = seated(greedy=0, seed=1, top_tokens=EVERYTHING, **given)
    picks = pick(logits.clone(), state.rows(slots))
    expected = logits
    for warper in warpers:
        expected = warper(torch.zeros((ROWS, 1), dtype=torch.long), expected)
    expected = expected.log_softmax(-1).numpy()
    for row in range(ROWS):
        np.testing.assert_allclose(listed(picks, row), expected[row], atol=1e-4)
        assert picks.logprob[row] == pytest.approx(expected[row, picks.token_id[row]], abs=1e-4)


def test_the_repetition_penalty_is_that_of_transformers(logits: torch.Tensor) -> None:
    state, slots = seated(repetition_penalty=1.3)
    ours = logits.clone()
    process(ours, state.rows(slots))
    processor = theirs.RepetitionPenaltyLogitsProcessor(1.3)
    for row, history in enumerate(histories()):
        expected = processor(torch.from_numpy(history)[None], logits[row : row + 1].clone())
        torch.testing.assert_close(ours[row : row + 1], expected)


def test_min_tokens_bans_what_transformers_ban(logits: torch.Tensor) -> None:
    state, slots = seated(stops=(3, 77), min_tokens=15)
    ours = logits.clone()
    process(ours, state.rows(slots))
    processor = theirs.MinNewTokensLengthLogitsProcessor(4, 15, [3, 77], device="cpu")
    banned = 0
    for row, history in enumerate(histories()):
        expected = processor(torch.from_numpy(history)[None], logits[row : row + 1].clone())
        torch.testing.assert_close(ours[row : row + 1], expected)
        banned += int(torch.isinf(expected).any())
    assert 0 < banned < ROWS
