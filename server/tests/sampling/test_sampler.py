"""The native choice of tokens against plain NumPy, row by row and in batches."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import reference

from ribbon_server.sampling.params import SamplingParams, parameters
from ribbon_server.sampling.sampler import Fault, pick
from ribbon_server.sampling.state import SamplingState

VOCAB = 500
ROWS = 24

CASES = {
    "greedy": {},
    "plain": {"greedy": 0},
    "hot": {"greedy": 0, "temperature": 3.0},
    "cold": {"greedy": 0, "temperature": 0.05},
    "top_k": {"greedy": 0, "top_k": 7},
    "top_k above the vocabulary": {"greedy": 0, "top_k": 5000},
    "top_p": {"greedy": 0, "top_p": 0.6},
    "min_p": {"greedy": 0, "min_p": 0.2},
    "typical": {"greedy": 0, "typical_p": 0.5},
    "all filters": {"greedy": 0, "temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95},
}


def make_rows(cases: list[dict], *, prompt: int = 3) -> tuple[torch.Tensor, SamplingState, np.ndarray]:
    """Random logits and seated sequences with a seed each."""
    rng = np.random.default_rng(len(cases))
    state = SamplingState(len(cases) + 1, 64)
    for row, case in enumerate(cases):
        params = parameters(**{"seed": 100 + row, "choice": row % 3, **case})
        state.put(row + 1, np.arange(prompt + row % 20), prompt, SamplingParams(params))
    logits = torch.from_numpy(rng.normal(0, 3, (len(cases), VOCAB)).astype(np.float32))
    return logits, state, np.arange(1, len(cases) + 1)


@pytest.mark.parametrize("name", CASES)
def test_picks_are_those_of_the_reference(name: str) -> None:
    logits, state, slots = make_rows([{**CASES[name], "top_tokens": 4}] * ROWS)
    rows = state.rows(slots)
    picks = pick(logits.clone(), rows)
    for row in range(ROWS):
        token, logprob, logprobs = reference.pick(logits[row].numpy(), int(rows.known[row]), rows.params[row])
        assert int(picks.token_id[row]) == token
        assert float(picks.logprob[row]) == pytest.approx(logprob, abs=1e-4)
        count = int(picks.top_count[row])
        best = np.argsort(-logprobs, kind="stable")[:4]
        best = best[np.isfinite(logprobs[best])]
        assert picks.top_token_id[row, :count].tolist() == best.tolist()
        np.testing.assert_allclose(picks.top_logprob[row, :count], logprobs[best], atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits, state, slots = make_rows([{**case} for case in CASES.values()])
    together = pick(logits.clone(), state.rows(slots))
    order = np.random.default_rng(1).permutation(len(slots))
    shuffled = pick(logits[torch.from_numpy(order)].clone(), state.rows(slots[order]))
    assert shuffled.token_id.tolist() == together.token_id[order].tolist()
    for row in range(len(slots)):
        assert (
            pick(logits[row : row + 1].clone(), state.rows(slots[row : row + 1])).token_id[0] == together.token_id[row]
        )


def test_ties_go_to_the_lowest_token_and_extend_the_list_of_top_tokens() -> None:
    logits, state, slots = make_rows([{"top_tokens": 2}])
    logits[:] = 0.0
    logits[0, [30, 20, 40]] = 5.0
    picks = pick(logits, state.rows(slots))
    assert picks.token_id.tolist() == [20]
    assert picks.top_count.tolist() == [3]
    assert sorted(picks.top_token_id[0, :3].tolist()) == [20, 30, 40]


def test_frequencies_follow_the_probabilities() -> None:
    draws = 4000
    logits, state, slots = make_rows([{"greedy": 0, "seed": seed} for seed in range(draws)], prompt=5)
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = torch.full((draws, VOCAB), -50.0)
    logits[:, :4] = torch.from_numpy(np.log(probabilities)).float()
    picks = pick(logits, state.rows(slots))
    seen = np.bincount(picks.token_id, minlength=4) / draws
    assert seen[:4] == pytest.approx(probabilities, abs=0.03)
    assert seen[4:].sum() == 0


def test_rows_without_numbers_are_marked_and_the_others_are_not_touched() -> None:
    logits, state, slots = make_rows([{}] * 4)
    expected = pick(logits.clone(), state.rows(slots)).token_id
    logits[1, 3], logits[2, 3] = float("nan"), float("inf")
    picks = pick(logits, state.rows(slots))
    assert picks.is_valid.tolist() == [True, False, False, True]
    assert picks.token_id[[0, 3]].tolist() == expected[[0, 3]].tolist()


def test_a_row_that_no_token_is_left_to_fails_alone() -> None:
    logits, state, slots = make_rows([{}] * 3)
    expected = pick(logits.clone(), state.rows(slots)).token_id
    everything = SamplingParams(parameters(min_tokens=60), np.arange(VOCAB, dtype=np.uint32))
    state.put(2, np.arange(3), 3, everything)
    picks = pick(logits, state.rows(slots))
    assert picks.fault.tolist() == [Fault.NONE, Fault.NO_TOKEN, Fault.NONE]
    assert picks.token_id[[0, 2]].tolist() == expected[[0, 2]].tolist()


def test_a_mask_does_not_hide_that_the_logits_are_no_numbers() -> None:
    logits, state, slots = make_rows([{}, {}])
    state.put(2, np.arange(3), 3, SamplingParams(parameters(min_tokens=60), np.array([8], np.uint32)))
    logits[1, 8] = float("nan")
    assert pick(logits, state.rows(slots)).fault.tolist() == [Fault.NONE, Fault.NOT_FINITE]
