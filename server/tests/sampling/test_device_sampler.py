"""The device's sampler, run on the CPU: golden noise, the native sampler's tokens, and rows that fail alone."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import reference
from test_sampler import CASES, ROWS, make_rows

from ribbon_server.sampling.device_filters import heaviest, ordered
from ribbon_server.sampling.device_random import gumbel_rows
from ribbon_server.sampling.device_sampler import pick_on_device
from ribbon_server.sampling.params import SamplingParams, parameters
from ribbon_server.sampling.random import gumbel
from ribbon_server.sampling.sampler import Fault, pick

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GOLDEN = json.loads((Path(__file__).parents[1] / "native" / "philox_golden.json").read_text())["gumbel"]


def picked(logits: torch.Tensor, state, slots):
    return pick_on_device(logits.clone().to(DEVICE), state.rows(slots, DEVICE))


def test_the_noise_is_that_of_the_golden_vectors() -> None:
    near = [vector for vector in GOLDEN if vector["token"] < 40_000]
    assert len(near) > 10
    columns = (
        torch.tensor(np.array([vector[name] for vector in near], np.uint64).view(np.int64), device=DEVICE)
        for name in ("seed", "position", "choice")
    )
    noise = gumbel_rows(*columns, 40_000).cpu()
    for row, vector in enumerate(near):
        assert float(noise[row, vector["token"]]) == pytest.approx(vector["noise"], abs=2e-6)


@pytest.mark.parametrize("seed", [0, 2**63 + 12345, 2**64 - 1])
def test_the_noise_of_a_whole_row_is_that_of_numpy(seed: int) -> None:
    key = torch.tensor(np.array([seed], np.uint64).view(np.int64))
    noise = gumbel_rows(key, torch.tensor([2**32 - 1]), torch.tensor([3]), 1001)
    np.testing.assert_allclose(
        noise[0].numpy(), gumbel(seed, 2**32 - 1, 3, np.arange(1001, dtype=np.uint32)), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("vocab_size", [1, 1000, 5003])
def test_the_noise_in_one_launch_is_the_same(vocab_size: int) -> None:
    from ribbon_server.sampling.triton_noise import add_gumbel

    seeds = np.array([0, 2**64 - 1, 2**63 + 5], np.uint64).view(np.int64)
    columns = [torch.from_numpy(seeds), torch.tensor([0, 2**32 - 1, 7]), torch.tensor([3, 0, 2**32 - 1])]
    columns = [column.to(DEVICE) for column in columns]
    scores = torch.randn((3, vocab_size), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    expected = scores + gumbel_rows(*columns, vocab_size)
    torch.testing.assert_close(add_gumbel(scores, *columns), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", CASES)
def test_picks_are_those_of_the_reference(name: str) -> None:
    logits, state, slots = make_rows([{**CASES[name], "top_tokens": 4}] * ROWS)
    rows = state.rows(slots)
    picks = picked(logits, state, slots)
    for row in range(ROWS):
        token, logprob, logprobs = reference.pick(logits[row].numpy(), int(rows.known[row]), rows.params[row])
        assert int(picks.token_id[row]) == token
        assert float(picks.logprob[row]) == pytest.approx(logprob, abs=1e-4)
        count = int(picks.top_count[row])
        best = np.argsort(-logprobs, kind="stable")[:4]
        best = best[np.isfinite(logprobs[best])]
        assert picks.top_token_id[row, :count].tolist() == best.tolist()
        np.testing.assert_allclose(picks.top_logprob[row, :count], logprobs[best], atol=1e-4)


def test_a_mixed_batch_gets_the_native_tokens_and_processors() -> None:
    penalties = {
        "watermark_gamma": 0.5,
        "watermark_delta": 1.5,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.2,
        "count_penalty": 0.1,
    }
    cases = [{**case, **(penalties if index % 2 else {})} for index, case in enumerate(CASES.values())]
    cases[3]["top_tokens"] = 5
    logits, state, slots = make_rows(cases)
    ours, native = picked(logits, state, slots), pick(logits.clone(), state.rows(slots))
    assert ours.token_id.tolist() == native.token_id.tolist()
    np.testing.assert_allclose(ours.logprob, native.logprob, atol=1e-4)
    assert ours.top_count.tolist() == native.top_count.tolist()
    assert ours.top_token_id[3, :5].tolist() == native.top_token_id[3, :5].tolist()


def test_greedy_without_top_tokens_gets_the_native_tokens() -> None:
    logits, state, slots = make_rows([{}] * 5)
    ours, native = picked(logits, state, slots), pick(logits.clone(), state.rows(slots))
    assert ours.token_id.tolist() == native.token_id.tolist()
    np.testing.assert_allclose(ours.logprob, native.logprob, atol=1e-5)
    assert not ours.top_count.any()


def test_ties_go_to_the_lowest_token_and_extend_the_list_of_top_tokens() -> None:
    logits, state, slots = make_rows([{"top_tokens": 2}, {}])
    logits[:] = 0.0
    logits[0, [30, 20, 40]] = 5.0
    picks = picked(logits, state, slots)
    assert picks.token_id.tolist() == [20, 0]
    assert picks.top_count.tolist() == [3, 0]
    assert picks.top_token_id[0, :3].tolist() == [20, 30, 40]


def test_ties_at_a_filters_bound_are_all_kept() -> None:
    logits, state, slots = make_rows(
        [{"greedy": 0, "top_k": 2, "top_tokens": 20}, {"greedy": 0, "top_p": 0.3, "top_tokens": 20}]
    )
    logits[:] = -30.0
    logits[:, [7, 9, 300]] = 4.0
    assert picked(logits, state, slots).top_count.tolist() == [3, 3]


def test_more_top_tokens_than_the_vocabulary_are_the_whole_vocabulary() -> None:
    logits, state, slots = make_rows([{"top_tokens": 30}])
    picks = picked(logits[:, :10], state, slots)
    assert picks.top_count.tolist() == [10]
    assert sorted(picks.top_token_id[0, :10].tolist()) == list(range(10))


def test_rows_without_numbers_are_marked_and_the_others_are_not_touched() -> None:
    logits, state, slots = make_rows([{}, {}, {"greedy": 0}, {}, {}])
    expected = picked(logits, state, slots).token_id
    logits[1, 3], logits[2, 3], logits[4] = float("nan"), float("inf"), float("-inf")
    picks = picked(logits, state, slots)
    assert picks.is_valid.tolist() == [True, False, False, True, False]
    assert picks.token_id[[0, 3]].tolist() == expected[[0, 3]].tolist()


def test_a_row_that_no_token_is_left_to_fails_alone() -> None:
    logits, state, slots = make_rows([{}, {"greedy": 0}, {}])
    everything = SamplingParams(parameters(min_tokens=60, greedy=0), np.arange(logits.shape[1], dtype=np.uint32))
    state.put(2, np.arange(3), 3, everything)
    assert picked(logits, state, slots).fault.tolist() == [Fault.NONE, Fault.NO_TOKEN, Fault.NONE]


def test_keys_are_in_the_order_of_the_numbers() -> None:
    values = torch.tensor([-float("inf"), -3.0e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 2.0, float("inf")])
    keys = ordered(values)
    assert keys[4] == keys[5]
    assert (keys.diff() >= 0).all()
    assert len(keys.unique()) == 8


def test_the_bound_is_exact() -> None:
    key = torch.tensor([[5, -7, 5, 2**31 - 1, -(2**31)]], dtype=torch.int32)
    weights = torch.tensor([[1.0, 2.0, 1.0, 4.0, 8.0]])
    for target, bound in ((4, 2**31 - 1), (4.5, 5), (6, 5), (6.1, -7), (8.1, -(2**31)), (99, -(2**31))):
        assert int(heaviest(key, weights, torch.tensor([target], dtype=torch.float64))) == bound
