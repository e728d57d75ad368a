"""What a position's logits become before a token is picked, and which tokens a filter keeps. Written from design §4 rule 1.

Knows logits and sampling parameters; not models, not servers. `marginal` tokens are those whose keeping hangs on rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]  # [vocabulary]
Mask = NDArray[np.bool_]  # [vocabulary]

LOGIT_TOLERANCE = 1e-3
MASS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parameters:
    """Sampling parameters of one run; neutral when not given. `do_sample` false is greedy."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    count_penalty: float = 0.0
    seed: int = 0
    choice: int = 0
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    min_tokens: int = 0

    @property
    def tolerance(self) -> float:
        """How far below the highest score a token may be and still count as equal to it."""
        return LOGIT_TOLERANCE / min(1.0, self.temperature if self.do_sample else 1.0)


def processed(logits: Scores, history: NDArray[np.int64], prompt_tokens: int, parameters: Parameters) -> Scores:
    """Logits after the processors, before temperature."""
    scores = logits.astype(np.float32).copy()
    seen, counts = np.unique(history, return_counts=True)
    if parameters.repetition_penalty != 1.0:
        before = scores[seen]
        penalty = np.float32(parameters.repetition_penalty)
        scores[seen] = np.where(before > 0, before / penalty, before * penalty)
    if parameters.frequency_penalty != 0.0:
        scores[seen] -= np.float32(parameters.frequency_penalty) * (counts / len(history)).astype(np.float32)
    generated, generated_counts = np.unique(history[prompt_tokens:], return_counts=True)
    scores[generated] -= np.float32(parameters.presence_penalty)
    scores[generated] -= np.float32(parameters.count_penalty) * generated_counts.astype(np.float32)
    if len(history) - prompt_tokens < parameters.min_tokens:
        scores[list(parameters.stop_token_ids)] = -np.inf
    return scores


def filtered(scores: Scores, parameters: Parameters) -> tuple[Mask, Mask]:
    """Tokens that the filters keep, and those for which that is a matter of rounding. `scores` are processed, before temperature."""
    kept = np.isfinite(scores)
    marginal = np.zeros_like(kept)
    if 0 < parameters.top_k < len(scores):
        threshold = np.sort(scores)[-parameters.top_k]
        marginal |= np.abs(scores - threshold) <= LOGIT_TOLERANCE
        kept &= scores >= threshold
    for bound, measure in (
        (parameters.top_p, mass_before),
        (parameters.min_p, ratio_to_highest),
        (parameters.typical_p, typical_mass_before),
    ):
        if bound == (0.0 if measure is ratio_to_highest else 1.0):
            continue
        values = measure(probabilities(scores, kept, parameters.temperature))
        near = np.abs(values - bound) <= MASS_TOLERANCE
        marginal |= kept & near
        kept &= values >= bound if measure is ratio_to_highest else values < bound
    return kept, marginal


def probabilities(scores: Scores, kept: Mask, temperature: float) -> Scores:
    """Softmax of the kept scores ÷ temperature; 0 elsewhere."""
    scaled = np.where(kept, scores / np.float32(temperature), -np.inf).astype(np.float64)
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def mass_before(chances: Scores) -> Scores:
    """Sum of the chances of all tokens that are likelier."""
    return _exclusive_sum(chances, np.argsort(-chances, kind="stable"))


def ratio_to_highest(chances: Scores) -> Scores:
    """Chance ÷ the highest chance."""
    return chances / chances.max()


def typical_mass_before(chances: Scores) -> Scores:
    """Sum of the chances of all tokens whose surprise is nearer to the entropy. https://arxiv.org/abs/2202.00666"""
    surprise = -np.log(np.maximum(chances, 1e-300))
    entropy = float((chances * surprise).sum())
    return _exclusive_sum(chances, np.argsort(np.abs(surprise - entropy), kind="stable"))


def _exclusive_sum(chances: Scores, order: NDArray[np.int64]) -> Scores:
    before = np.empty_like(chances)
    before[order] = np.cumsum(chances[order]) - chances[order]
    return before
