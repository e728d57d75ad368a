"""Every logits processor against its rule, written down token by token."""

from collections import Counter

import numpy as np
import pytest
import torch

from ribbon_server.sampling.params import SamplingParams, parameters
from ribbon_server.sampling.registry import PROCESSORS
from ribbon_server.sampling.sampler import process
from ribbon_server.sampling.state import SamplingState

VOCAB = 60
HISTORIES = [[1, 2, 2, 9], [5], [7, 7, 7, 7, 0, 3], [0, 0, 4], [50, 51, 2, 50, 50]]
PROMPTS = [2, 1, 1, 3, 2]


def processed(row_params: list[dict], logits: torch.Tensor, bias=(), stops=()) -> torch.Tensor:
    """The logits after every processor, for one sequence a history."""
    state = SamplingState(len(HISTORIES) + 1, 32)
    for index, (history, prompt, given) in enumerate(zip(HISTORIES, PROMPTS, row_params, strict=True)):
        ids, values = zip(*bias, strict=True) if bias and given.get("biased") else ((), ())
        params = SamplingParams(
            parameters(**{name: value for name, value in given.items() if name != "biased"}),
            np.array(stops, np.uint32),
            np.array(ids, np.uint32),
            np.array(values, np.float32),
        )
        state.put(index + 1, np.array(history), prompt, params)
    result = logits.clone()
    process(result, state.rows(np.arange(1, len(HISTORIES) + 1)))
    return result


def spelled_out(logits: torch.Tensor, rule) -> torch.Tensor:
    """The logits after `rule(row, token, score)`."""
    return torch.tensor(
        [[rule(row, token, float(score)) for token, score in enumerate(scores)] for row, scores in enumerate(logits)]
    )


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(0, 4, (len(HISTORIES), VOCAB)).astype(np.float32))


def generated(row: int) -> Counter:
    return Counter(HISTORIES[row][PROMPTS[row] :])


def test_repetition_divides_above_zero_and_multiplies_below(logits) -> None:
    penalties = [1.5, 1.0, 0.7, 2.0, 1.1]

    def rule(row: int, token: int, score: float) -> float:
        if token not in HISTORIES[row]:
            return score
        return score / penalties[row] if score > 0 else score * penalties[row]

    result = processed([{"repetition_penalty": penalty} for penalty in penalties], logits)
    torch.testing.assert_close(result, spelled_out(logits, rule))


def test_frequency_is_relative_to_the_history(logits) -> None:
    penalties = [0.5, 0.0, -1.5, 2.0, 1.0]

    def rule(row: int, token: int, score: float) -> float:
        return score - penalties[row] * HISTORIES[row].count(token) / len(HISTORIES[row])

    result = processed([{"frequency_penalty": penalty} for penalty in penalties], logits)
    torch.testing.assert_close(result, spelled_out(logits, rule))


def test_presence_counts_generated_tokens_once(logits) -> None:
    penalties = [0.5, 1.0, -1.5, 2.0, 0.0]
    result = processed([{"presence_penalty": penalty} for penalty in penalties], logits)
    torch.testing.assert_close(
        result, spelled_out(logits, lambda row, token, score: score - penalties[row] * (token in generated(row)))
    )


def test_count_counts_generated_tokens_each_time(logits) -> None:
    penalties = [0.5, 1.0, -1.5, 2.0, 1.0]
    result = processed([{"count_penalty": penalty} for penalty in penalties], logits)
    torch.testing.assert_close(
        result, spelled_out(logits, lambda row, token, score: score - penalties[row] * generated(row)[token])
    )


def test_bias_is_added_where_it_was_asked_for(logits) -> None:
    bias = [(0, 3.0), (59, -100.0), (4, 1.0), (4, 0.5)]
    params = [{"biased": True}, {}, {"biased": True}, {}, {}]

    def rule(row: int, token: int, score: float) -> float:
        return score + sum(value for biased, value in bias if biased == token) * (row in (0, 2))

    torch.testing.assert_close(processed(params, logits, bias=bias), spelled_out(logits, rule))


def test_min_tokens_masks_stop_tokens_until_there_are_enough(logits) -> None:
    wanted = [2, 3, 5, 1, 6]

    def rule(row: int, token: int, score: float) -> float:
        too_few = len(HISTORIES[row]) - PROMPTS[row] < wanted[row]
        return -float("inf") if too_few and token in (8, 9) else score

    result = processed([{"min_tokens": count} for count in wanted], logits, stops=[8, 9])
    assert torch.isinf(result).any()
    assert not torch.isinf(result[0]).any()
    torch.testing.assert_close(result, spelled_out(logits, rule))


def test_processors_run_in_the_order_of_the_contract() -> None:
    names = [type(processor).__name__ for processor in PROCESSORS]
    expected = ["Watermark", "Repetition", "Frequency", "Presence", "Count", "LogitBias", "GrammarMask", "MinTokens"]
    assert names == expected


def test_a_bias_does_not_bring_a_masked_stop_token_back(logits) -> None:
    params = [{"min_tokens": 30, "biased": True}] * len(HISTORIES)
    assert torch.isinf(processed(params, logits, bias=[(8, 100.0)], stops=[8])[:, 8]).all()


def test_neutral_values_change_nothing(logits) -> None:
    assert torch.equal(processed([{}] * len(HISTORIES), logits, stops=[8]), logits)


def test_a_row_does_not_depend_on_its_neighbours(logits) -> None:
    on = {"repetition_penalty": 1.4, "frequency_penalty": 0.8, "presence_penalty": 0.3, "count_penalty": 0.2}
    everywhere = processed([on] * len(HISTORIES), logits)
    alone = processed([on, {}, {}, {}, {}], logits)
    assert torch.equal(alone[0], everywhere[0])
    assert torch.equal(alone[1:], logits[1:])
