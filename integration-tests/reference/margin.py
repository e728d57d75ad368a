"""The margin rule of design §4 rule 2: our tokens against a float32 reference that is forced along them.

Knows token ids and the transformers model of a directory; not HTTP. A run is right when at each position our token has the
reference's highest score, or is a margin case: the difference is explained by rounding. Margin cases are counted and limited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from figures import show
from numpy.typing import NDArray
from philox import gumbel
from scores import Parameters, Scores, filtered, processed
from transformers import AutoModelForCausalLM

CASES_PER_TOKEN = 2 / 10_000


@dataclass(frozen=True)
class Run:
    """What a server was asked and what it said. `finish_reason` in the native spelling."""

    prompt: Sequence[int]
    generated: Sequence[int]
    parameters: Parameters = field(default_factory=Parameters)
    max_new_tokens: int | None = None
    finish_reason: str | None = None
    name: str = ""


@dataclass
class Verdict:
    """Positions judged, margin cases among them, and what cannot be explained."""

    tokens: int = 0
    margin_cases: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Most margin cases allowed."""
        return max(1.0, self.tokens * CASES_PER_TOKEN)

    def check(self, title: str) -> None:
        """Shows the count; raises AssertionError when a token is wrong or margin cases are too many."""
        show(
            f"{title}: {self.tokens} tokens, {len(self.margin_cases)} margin cases (limit {self.limit:g}), {len(self.wrong)} wrong"
        )
        assert not self.wrong, "\n".join(self.wrong[:10])
        assert len(self.margin_cases) <= self.limit, "\n".join(self.margin_cases[:10])


class Reference:
    """The model of a directory in float32 through transformers, one sequence at a time, without a cache."""

    def __init__(self, directory: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(self, prompt: Sequence[int], generated: Sequence[int]) -> NDArray[np.float32]:
        """Raw logits [len(generated), vocabulary] at the positions where our tokens were picked."""
        fed = torch.tensor([[*prompt, *generated[:-1]]])
        return self._model(fed, use_cache=False, logits_to_keep=len(generated)).logits[0].numpy()

    def judge(self, runs: Sequence[Run]) -> Verdict:
        """Applies the rule to every position of every run."""
        verdict = Verdict()
        for run in runs:
            if complaint := wrong_end(run):
                verdict.wrong.append(f"{run.name}: {complaint}")
            if run.generated:
                judge_run(run, self.logits(run.prompt, run.generated), verdict)
        return verdict


def judge_run(run: Run, logits: NDArray[np.float32], verdict: Verdict) -> None:
    """Adds one run's positions to the verdict."""
    history = np.array([*run.prompt, *run.generated], dtype=np.int64)
    for step, token in enumerate(run.generated):
        position = len(run.prompt) + step
        scores = processed(logits[step], history[:position], len(run.prompt), run.parameters)
        complaint, is_margin = judge_token(scores, token, position, run.parameters)
        verdict.tokens += 1
        if complaint:
            (verdict.margin_cases if is_margin else verdict.wrong).append(
                f"{run.name}: position {position}: {complaint}"
            )


def judge_token(scores: Scores, token: int, position: int, parameters: Parameters) -> tuple[str | None, bool]:
    """Why `token` is not the reference's choice (None when it is), and whether rounding explains it."""
    kept, marginal = np.isfinite(scores), np.zeros(len(scores), dtype=bool)
    final = scores
    if parameters.do_sample:
        kept, marginal = filtered(scores, parameters)
        final = scores / np.float32(parameters.temperature) + gumbel(
            parameters.seed, position, parameters.choice, len(scores)
        )
    winner = int(np.argmax(np.where(kept, final, -np.inf)))
    if token == winner:
        return None, False
    below = float(final[winner] - final[token])
    complaint = f"token {token} is {below:.2e} below the reference's {winner}" + (
        "" if kept[token] else ", and filtered out"
    )
    # Where the winner's own place is marginal, ours must be best among those that are surely kept.
    sure = np.where(kept & ~marginal, final, -np.inf).max()
    return complaint, bool((kept[token] or marginal[token]) and final[token] >= sure - parameters.tolerance)


def wrong_end(run: Run) -> str | None:
    """What is wrong with where the run ended, None when nothing is."""
    stops = [step for step, token in enumerate(run.generated) if token in run.parameters.stop_token_ids]
    last = len(run.generated) - 1
    if not run.generated:
        return "no token at all"
    if stops and stops[0] != last:
        return f"token {run.generated[stops[0]]} at {stops[0]} should have ended it, yet {last - stops[0]} follow"
    if run.max_new_tokens is not None and len(run.generated) > run.max_new_tokens:
        return f"{len(run.generated)} tokens, {run.max_new_tokens} allowed"
    if run.finish_reason == "length" and run.max_new_tokens is not None and len(run.generated) != run.max_new_tokens:
        return f"finished for length at {len(run.generated)} of {run.max_new_tokens} tokens"
    if run.finish_reason == "eos_token" and not stops:
        return f"finished for an EOS token, but the last token is {run.generated[last]}"
    return None
