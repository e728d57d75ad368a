"""Prompt and output lengths as a chat service sees them: lognormal, few long ones among many short. Knows numbers of tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# With this spread a snapshot of running requests holds 786 tokens on average, as in the study that set the bar for KV waste.
SIGMA = 1.0
PROMPT_MEAN = 500
OUTPUT_MEAN = 250
CAP = 4_096


@dataclass(frozen=True)
class Lengths:
    """One request, in tokens."""

    prompt: int
    output: int


def lognormal_trace(
    requests: int, prompt_mean: float = PROMPT_MEAN, output_mean: float = OUTPUT_MEAN, cap: int = CAP, seed: int = 0
) -> list[Lengths]:
    """Requests whose prompt and output together are at most `cap`, each at least 2 and 1. The same for the same seed."""
    rng = np.random.default_rng(seed)
    prompt = np.clip(_lognormal(rng, prompt_mean, requests), 2, cap - 1)
    output = np.clip(_lognormal(rng, output_mean, requests), 1, cap - prompt)
    return [Lengths(int(one), int(other)) for one, other in zip(prompt, output, strict=True)]


def _lognormal(rng: np.random.Generator, mean: float, number: int) -> np.ndarray:
    return np.rint(rng.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA, number)).astype(np.int64)
