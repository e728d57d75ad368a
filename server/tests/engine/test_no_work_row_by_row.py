"""The hard rule of the step loop: a steady decode step makes no more Python calls at 64 rows than at one."""

import sys

import numpy as np
import pytest
from tiny import EOS, Driver, TinyModel, make_engine, regex, save_tiny, write_byte_tokenizer

LIMIT = 1.2


def count_calls(work) -> int:
    """Python and C calls that `work` makes in this thread."""
    calls = 0

    def profile(_frame, event, _argument) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def steady_step(folder, rows: int, **params) -> int:
    """Calls of one decode step of `rows` sequences that have run for a while."""
    driver = Driver(make_engine(folder, concurrent=64))
    for slot in range(1, rows + 1):
        driver.seat(slot, [5, 6, 7 + slot], **params)
    slots = range(1, rows + 1)
    driver.step(dict.fromkeys(slots, 3))
    driver.step(dict.fromkeys(slots, 1))
    plan = driver.plan(dict.fromkeys(slots, 1))
    return count_calls(lambda: driver.engine.step(plan))


def test_a_greedy_decode_step_does_no_work_row_by_row(tiny_untied: TinyModel) -> None:
    one, many = (steady_step(tiny_untied.folder, rows) for rows in (1, 64))
    assert one > 50  # the profile saw the step
    assert many <= LIMIT * one


def test_a_step_with_every_processor_on_does_no_work_row_by_row(tiny_untied: TinyModel) -> None:
    params = {
        "greedy": 0,
        "seed": 5,
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.01,
        "typical_p": 0.95,
        "top_tokens": 2,
        "watermark_gamma": 0.5,
        "watermark_delta": 2.0,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.1,
        "count_penalty": 0.1,
        "min_tokens": 30,
        "stops": [150],
        "bias": {9: 0.5, 10: -0.5},
    }
    one, many = (steady_step(tiny_untied.folder, rows, **params) for rows in (1, 64))
    assert many <= LIMIT * one


@pytest.mark.parametrize(
    "architecture", ["BloomForCausalLM", "Gemma2ForCausalLM", "GptOssForCausalLM", "DeepseekV3ForCausalLM"]
)
def test_no_way_to_attend_works_row_by_row(tmp_path, architecture: str) -> None:
    """Slopes, softcaps and windows, sinks, latents."""
    save_tiny(tmp_path, architecture).reference.save_pretrained(tmp_path)  # under the names that checkpoints have
    one, many = (steady_step(tmp_path, rows) for rows in (1, 64))
    assert many <= LIMIT * one


def test_a_second_group_of_layers_costs_next_to_nothing(tmp_path_factory) -> None:
    """Two groups against one: the same layers, some of them with a window."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    save_tiny(one, "MinistralForCausalLM", layer_types=["sliding_attention"] * 3)
    save_tiny(two, "MinistralForCausalLM")
    assert steady_step(two, 8) <= LIMIT * steady_step(one, 8)


def test_the_guard_sees_a_loop_over_rows(tiny_untied: TinyModel, monkeypatch) -> None:
    from ribbon_server.engine.sequences import Sequences

    advance = Sequences.advance

    def row_by_row(self, slots, counts) -> None:
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            advance(self, np.array([slot]), np.array([count]))

    monkeypatch.setattr(Sequences, "advance", row_by_row)
    one, many = (steady_step(tiny_untied.folder, rows) for rows in (1, 64))
    assert many > LIMIT * one


def test_a_constrained_decode_step_does_no_work_row_by_row(tmp_path) -> None:
    model = save_tiny(tmp_path)
    write_byte_tokenizer(model.folder, 10, 159)
    params = {"grammar": regex("[a-z]{60}"), "min_tokens": 30, "stops": [EOS]}
    one, many = (steady_step(model.folder, rows, **params) for rows in (1, 64))
    assert many <= LIMIT * one
