"""Scores of known tokens against plain log-softmax, with ties, and with rows that are no numbers."""

import numpy as np
import pytest
import torch

from ribbon_server.sampling.prompt_scores import joined, score_tokens


def expected(logits: torch.Tensor) -> np.ndarray:
    return logits.double().log_softmax(-1).numpy()


def test_logprobs_and_top_tokens_are_those_of_the_raw_logits() -> None:
    logits = torch.randn((6, 90), generator=torch.Generator().manual_seed(2)) * 4
    tokens, wanted = np.array([0, 89, 5, 5, 17, 40]), np.array([0, 3, 1, 0, 5, 200], np.uint32)
    scores = score_tokens(logits, tokens, wanted)
    right = expected(logits)
    np.testing.assert_allclose(scores.logprob, right[np.arange(6), tokens], atol=1e-5)
    assert scores.is_valid.all()
    assert scores.top_count.tolist() == [0, 3, 1, 0, 5, 90]
    order = np.argsort(-right, axis=1)
    ids = np.concatenate([order[row, :count] for row, count in enumerate(scores.top_count)])
    assert scores.top_token_id.tolist() == ids.tolist()
    np.testing.assert_allclose(scores.top_logprob, right[np.repeat(np.arange(6), scores.top_count), ids], atol=1e-5)


def test_ties_at_the_last_place_extend_the_list() -> None:
    logits = torch.zeros((1, 50))
    logits[0, [30, 20, 40]] = 5.0
    scores = score_tokens(logits, np.array([20]), np.array([2], np.uint32))
    assert scores.top_token_id.tolist() == [20, 30, 40]
    assert scores.logprob[0] == pytest.approx(scores.top_logprob[0])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_rows_that_are_no_numbers_are_told(poison: float) -> None:
    logits = torch.zeros((3, 10))
    logits[1, 4] = poison
    scores = score_tokens(logits, np.array([1, 2, 3]), np.zeros(3, np.uint32))
    assert scores.is_valid.tolist() == [True, False, True]


def test_parts_stand_one_behind_the_other() -> None:
    logits = torch.randn((5, 30), generator=torch.Generator().manual_seed(3))
    tokens, wanted = np.arange(5), np.array([2, 0, 1, 0, 3], np.uint32)
    whole = score_tokens(logits, tokens, wanted)
    parts = joined([score_tokens(logits[:2], tokens[:2], wanted[:2]), score_tokens(logits[2:], tokens[2:], wanted[2:])])
    for name in ("logprob", "is_valid", "top_count", "top_token_id", "top_logprob"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
