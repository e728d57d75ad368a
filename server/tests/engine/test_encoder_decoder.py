"""An encoder and a decoder behind the engine: the tokens of transformers' `generate`, many sequences in one step, prompts in one run."""

import numpy as np
import pytest
import torch
from engine.test_no_work_row_by_row import LIMIT, steady_step
from tiny import Driver, TinyModel, make_engine, save_tiny

from ribbon_server.engine.step import RowStatus, Wanted
from ribbon_server.engine.warmup import Warmup

START, ROOM = 0, 40
RANDOM = np.random.default_rng(3)
PROMPTS = {slot: RANDOM.integers(3, 160, length).tolist() for slot, length in enumerate((5, 1, 31, 12, 60), start=1)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save_tiny(tmp_path_factory.mktemp("encoder-decoder"), "T5ForConditionalGeneration", vocab_size=160)


def reference(model: TinyModel, prompt: list[int], count: int, **settings) -> list[int]:
    """What transformers generates greedily, the start token left out."""
    # No cache: that of transformers has as many layers as the encoder.
    settings = {"decoder_start_token_id": START, "eos_token_id": None, "use_cache": False, **settings}
    made = model.reference.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, **settings)
    return made[0, 1:].tolist()


def run(driver: Driver, slots: dict[int, int], counts: dict[int, int]) -> dict[int, list[int]]:
    """Feeds each slot its first count, then one token a step, until each has made its `counts`."""
    made: dict[int, list[int]] = {slot: [] for slot in slots}
    work = dict(slots)
    while work:
        outcome = driver.step(work)
        assert outcome.failure == ""
        assert outcome.errors == []
        for slot, token in zip(outcome.slot.tolist(), outcome.token_id.tolist(), strict=True):
            made[slot].append(token)
        work = {slot: 1 for slot in work if len(made[slot]) < counts[slot]}
    return made


def test_a_batch_of_prompts_gives_what_transformers_generates(model: TinyModel) -> None:
    driver = Driver(make_engine(model.folder))
    for slot, prompt in PROMPTS.items():
        driver.seat(slot, [*prompt, START])
    first = {slot: len(PROMPTS[slot]) + 1 for slot in (1, 2, 3)}
    counts = {1: 30, 2: 7, 3: 20}
    made = run(driver, first, counts)
    driver.close(2)
    late = {slot: len(PROMPTS[slot]) + 1 for slot in (4, 5)}
    made |= run(driver, {**late, 1: 1}, {4: 25, 5: 25, 1: 9})
    assert made.pop(1)[:9] == reference(model, PROMPTS[1], 39)[30:]
    for slot, tokens in made.items():
        assert tokens == reference(model, PROMPTS[slot], len(tokens)), slot


def test_what_was_said_before_is_said_again_from_one_run(model: TinyModel) -> None:
    said = reference(model, PROMPTS[3], 30)
    driver = Driver(make_engine(model.folder))
    driver.seat(1, [*PROMPTS[1], START])
    driver.step({1: 6})
    for known in (1, 12, 29):
        driver.seat(2, [*PROMPTS[3], START, *said[:known]], prompt=32)
        outcome = driver.step({2: 32 + known, 1: 1})
        assert outcome.token_id[0] == said[known]
        if known < 29:
            assert driver.step({2: 1}).token_id[0] == said[known + 1]
        driver.close(2)


def test_long_prompts_and_long_answers_are_right_in_every_tile(model: TinyModel) -> None:
    prompt, said = (RANDOM.integers(3, 160, length).tolist() for length in (300, 290))
    driver = Driver(make_engine(model.folder, total=700))
    driver.seat(1, [*PROMPTS[1], START])
    driver.seat(2, [*prompt, START, *said], prompt=301)
    outcome = driver.step({1: 6, 2: 591})
    with torch.inference_mode():
        logits = model.reference(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[START, *said]])).logits[0, -1]
    best = logits.topk(2)
    assert float(best.values[0] - best.values[1]) > 1e-3, "the reference is not sure; take another seed"
    assert outcome.token_id.tolist() == [reference(model, PROMPTS[1], 1)[0], int(best.indices[0])]


def test_penalties_look_at_the_answer_alone(model: TinyModel) -> None:
    driver = Driver(make_engine(model.folder))
    made = driver.generate(1, [*PROMPTS[3], START], 30, repetition_penalty=1.7)
    assert made == reference(model, PROMPTS[3], 30, repetition_penalty=1.7)
    assert made != reference(model, PROMPTS[3], 30)


def test_a_stop_token_comes_no_earlier_than_the_least_number_of_tokens(model: TinyModel) -> None:
    free = reference(model, PROMPTS[4], 20)
    stop = free[4]
    driver = Driver(make_engine(model.folder))
    made = driver.generate(1, [*PROMPTS[4], START], 12, stops=[stop], min_tokens=12)
    assert stop not in made
    assert made == reference(model, PROMPTS[4], 12, eos_token_id=stop, min_new_tokens=12)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(20, Wanted.NONE), (32, Wanted.SAMPLE | Wanted.PROMPT_LOGPROBS), (31, Wanted.NONE)],
)
def test_a_prompt_that_is_cut_or_scored_fails_its_row_alone(model: TinyModel, count: int, wanted: Wanted) -> None:
    driver = Driver(make_engine(model.folder))
    driver.seat(1, [*PROMPTS[3], START])
    driver.seat(2, [*PROMPTS[1], START])
    outcome = driver.step({1: count, 2: 6}, wanted=[wanted, Wanted.SAMPLE])
    assert outcome.status.tolist() == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert "prompt of 32 tokens is fed in one run" in outcome.errors[0][1]
    assert outcome.token_id[1] == reference(model, PROMPTS[1], 1)[0]


def test_a_prompt_of_the_start_token_alone_is_refused(model: TinyModel) -> None:
    driver = Driver(make_engine(model.folder))
    driver.seat(1, [START])
    outcome = driver.step({1: 1})
    assert "a prompt at least 2" in outcome.errors[0][1]


def test_the_warm_up_measures_the_longest_prompt(model: TinyModel, tiny_untied: TinyModel, monkeypatch) -> None:
    measured: list[int] = []
    measure = Warmup._measure
    monkeypatch.setattr(Warmup, "_measure", lambda self, tokens: measured.append(tokens) or measure(self, tokens))
    make_engine(model.folder, total=300)
    assert measured[-1] == 300
    measured.clear()
    make_engine(tiny_untied.folder, total=300)
    assert max(measured) == 64, "the step budget"


def test_a_decode_step_does_no_work_row_by_row(model: TinyModel) -> None:
    one, many = (steady_step(model.folder, rows) for rows in (1, 64))
    assert one > 50
    assert many <= LIMIT * one
