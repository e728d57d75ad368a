"""The judge itself: right runs pass, wrong ones do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from margin import Reference, Run, judge_token
from model_tokenizer import Prompts
from philox import gumbel, philox4x32
from scores import Parameters, filtered, processed

SAMPLED = Parameters(
    do_sample=True, temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.3, seed=2**63 + 5
)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_vectors(counter: str, key: str, expected: str) -> None:
    def words(text: str) -> list[int]:
        return [int(word, 16) for word in text.split()]

    first, second = words(key)
    assert philox4x32(np.array([words(counter)], dtype=np.uint64), (first, second)).tolist() == [words(expected)]


def test_noise_stays_in_its_range_and_depends_on_every_part_of_the_key() -> None:
    base = gumbel(7, 3, 0, 10_000)
    assert base.dtype == np.float32
    assert -2.83 < base.min() < base.max() < 16.65
    assert abs(base.mean() - 0.5772) < 0.05
    for other in (
        gumbel(8, 3, 0, 10_000),
        gumbel(7 + 2**32, 3, 0, 10_000),
        gumbel(7, 4, 0, 10_000),
        gumbel(7, 3, 1, 10_000),
    ):
        assert not np.array_equal(base, other)
    assert np.array_equal(base[:9_998], gumbel(7, 3, 0, 9_998))


def test_noise_samples_the_softmax() -> None:
    scores = np.log(np.array([0.6, 0.3, 0.1], dtype=np.float32))
    picks = np.bincount([int(np.argmax(scores + gumbel(1, position, 0, 3))) for position in range(3_000)], minlength=3)
    assert np.abs(picks / 3_000 - np.exp(scores)).max() < 0.04


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Reference:
    return Reference(tiny_model)


def imitate(reference: Reference, prompt: list[int], parameters: Parameters, tokens: int) -> list[int]:
    """A right run, token by token."""
    generated: list[int] = []
    for _ in range(tokens):
        history = np.array([*prompt, *generated])
        scores = processed(reference.logits(prompt, [*generated, 0])[-1], history, len(prompt), parameters)
        kept = np.isfinite(scores)
        if parameters.do_sample:
            kept, _ = filtered(scores, parameters)
            scores = scores / np.float32(parameters.temperature) + gumbel(
                parameters.seed, len(history), parameters.choice, len(scores)
            )
        generated.append(int(np.argmax(np.where(kept, scores, -np.inf))))
    return generated


@pytest.mark.parametrize(
    "parameters",
    [Parameters(), SAMPLED, replace(SAMPLED, min_p=0.05, typical_p=0.9)],
    ids=["greedy", "sampled", "all filters"],
)
def test_a_right_run_passes_and_a_changed_token_does_not(
    reference: Reference, tiny_model: Path, parameters: Parameters
) -> None:
    prompts = Prompts(tiny_model)
    prompt = prompts.ids(prompts.text(17))
    generated = imitate(reference, prompt, parameters, 24)
    assert len(set(generated)) > 8
    run = Run(prompt, generated, parameters, max_new_tokens=24, finish_reason="length")
    reference.judge([run]).check("right run")
    for step in (0, 11, 23):
        changed = [*generated[:step], (generated[step] + 1) % 2_000, *generated[step + 1 :]]
        assert reference.judge([replace(run, generated=changed)]).wrong
    if parameters.do_sample:
        assert reference.judge([replace(run, parameters=replace(parameters, seed=1))]).wrong
        assert reference.judge([replace(run, parameters=replace(parameters, top_k=2))]).wrong
        assert reference.judge([replace(run, parameters=replace(parameters, repetition_penalty=0.3))]).wrong


def test_transformers_own_greedy_run_passes(reference: Reference, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=3)
    prompt = prompts.ids(prompts.text(40))
    generated = reference._model.generate(
        torch.tensor([prompt]), max_new_tokens=32, do_sample=False, eos_token_id=None
    )[0, 40:].tolist()
    reference.judge([Run(prompt, generated, max_new_tokens=32, finish_reason="length")]).check("transformers")


def test_a_wrong_end_is_told() -> None:
    def complaint(generated: list[int], reason: str) -> list[str]:
        verdict = Reference.judge(
            _WithoutModel(), [Run([1], generated, Parameters(stop_token_ids=frozenset({2})), 3, reason)]
        )
        return verdict.wrong

    assert complaint([0, 0], "length")
    assert complaint([0, 2, 0], "length")
    assert complaint([0, 0, 0], "eos_token")
    assert complaint([0, 0, 0, 0], "length")
    assert complaint([], "length")
    assert not complaint([0, 2], "eos_token")
    assert not complaint([0, 0, 0], "length")


class _WithoutModel(Reference):
    def __init__(self) -> None:
        pass

    def logits(self, prompt: object, generated: list[int]) -> np.ndarray:  # noqa: ARG002
        scores = np.zeros((len(generated), 4), dtype=np.float32)
        scores[np.arange(len(generated)), generated] = 1.0
        return scores


@pytest.mark.parametrize(
    ("scores", "parameters", "is_margin"),
    [
        ([1.0, 0.9995, 0.0], Parameters(), True),
        ([1.0, 0.998, 0.0], Parameters(), False),
        # The one with noise on top is filtered out in the reference: just so (top_k 1, 5e-4 apart), or clearly.
        ([1.0, 0.9995, -9.0], Parameters(do_sample=True, top_k=1, seed=0), True),
        ([1.0, 0.5, -9.0], Parameters(do_sample=True, top_k=1, seed=0), False),
    ],
)
def test_only_rounding_makes_a_margin_case(scores: list[float], parameters: Parameters, is_margin: bool) -> None:
    position = 0
    if parameters.do_sample:  # a position whose noise lifts token 1 well above token 0
        position = next(p for p in range(100) if (noise := gumbel(0, p, 0, 3))[1] > noise[0] + 1)
    complaint, margin = judge_token(np.array(scores, dtype=np.float32), 1, position, parameters)
    assert complaint
    assert margin is is_margin
