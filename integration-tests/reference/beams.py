"""Beam search by transformers, and how near it came to deciding otherwise.

Knows token ids and the transformers model of a directory; not HTTP. Two searches may differ only where two candidates were so
near each other that rounding can swap them: then `least_gap` of the reference is small (design §4 rule 2 in terms of beams).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

ROUNDING = 1e-4  # of a sum of log probabilities in float32; measured differences stay below 1e-5


@dataclass(frozen=True)
class Search:
    """What is asked of both sides; the names are transformers' own where it has them."""

    num_beams: int
    num_return_sequences: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    max_new_tokens: int = 16
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Found:
    """Generated tokens of the best sequences with their scores, the best first."""

    sequences: list[list[int]]
    scores: list[float]
    stopped: list[bool]  # by a stop token; else by the length
    least_gap: float


class BeamReference:
    """The model of a directory in float32 through transformers' `generate`."""

    def __init__(self, directory: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self._rank = self._model._get_top_k_continuations
        self._model._get_top_k_continuations = self._ranked
        self._gap = float("inf")
        eos = self._model.generation_config.eos_token_id
        self._eos = eos if isinstance(eos, list) else [eos]

    @torch.inference_mode()
    def search(self, prompt: Sequence[int], asked: Search) -> Found:
        """The best sequences behind a prompt."""
        self._gap = float("inf")
        stops = [*self._eos, *asked.stop_token_ids]
        answer = self._model.generate(
            torch.tensor([list(prompt)]),
            num_beams=asked.num_beams,
            num_return_sequences=asked.num_return_sequences,
            length_penalty=asked.length_penalty,
            early_stopping=asked.early_stopping,
            max_new_tokens=asked.max_new_tokens,
            eos_token_id=stops,
            pad_token_id=0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        rows = answer.sequences[:, len(prompt) :].tolist()
        sequences = [_ended(row, stops, asked.max_new_tokens) for row in rows]
        stopped = [sequence[-1] in stops for sequence in sequences]
        return Found(sequences, answer.sequences_scores.tolist(), stopped, self._gap)

    def _ranked(self, accumulated_log_probs: torch.Tensor, beams_to_keep: int, **others: Any) -> Any:
        """As transformers ranks, with a look at how far the candidates that matter are apart."""
        best = accumulated_log_probs.topk(beams_to_keep + 1, dim=1).values[0]
        known = best[best > -1e8]
        self._gap = min(self._gap, float((known[:-1] - known[1:]).min()))
        return self._rank(accumulated_log_probs=accumulated_log_probs, beams_to_keep=beams_to_keep, **others)


def _ended(row: list[int], stops: list[int], longest: int) -> list[int]:
    """Without the padding behind the token that ended it."""
    ends = [place for place, token in enumerate(row) if token in stops]
    return row[: ends[0] + 1] if ends else row[:longest]
