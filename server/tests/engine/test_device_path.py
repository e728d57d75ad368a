"""The whole engine with a device's layers and sampler, on CPU tensors: Triton interpreted, flash by its twin."""

import numpy as np
import pytest
import torch
from layers.flash_twin import FlashTwin
from models.test_parity import PROMPT, Recorder, feed
from tiny import Driver, TinyModel, make_engine

from ribbon_server.config import DType
from ribbon_server.layers.activation import fused_silu_mul
from ribbon_server.layers.attention.device_choice import DeviceAttention, DeviceAttentionChooser
from ribbon_server.layers.attention.flash import FlashAttention
from ribbon_server.layers.attention.store import torch_rope_store
from ribbon_server.layers.attention.triton import TritonAttention
from ribbon_server.layers.linear import TorchLinear
from ribbon_server.layers.norm import FusedRmsNorm
from ribbon_server.layers.registry import Kernels
from ribbon_server.sampling.device_sampler import pick_on_device

from .test_no_work_row_by_row import LIMIT, count_calls

CPU = torch.device("cpu")
TOLERANCE = 2e-4


def device_driver(model: TinyModel, *, dtype: DType = DType.FLOAT32, attention=None, **engine: int) -> Driver:
    kernels = Kernels(FusedRmsNorm, fused_silu_mul, attention or DeviceAttentionChooser(CPU, FlashTwin()), TorchLinear)
    built = make_engine(model.folder, dtype=dtype, kernels=kernels, **engine)
    built.pick = pick_on_device
    return Driver(built)


def attention_kernels(driver: Driver) -> set[type]:
    return {type(block.attention.kernel) for block in driver.engine.decoder.parts.blocks}


@pytest.mark.parametrize("chunk", [30, 90])
def test_float32_runs_in_triton_and_gives_the_logits_of_transformers(tiny_untied: TinyModel, chunk: int) -> None:
    driver = device_driver(tiny_untied)
    logits = feed(driver, PROMPT, chunk)
    expected = tiny_untied.logits(PROMPT)[[min(end, 90) - 1 for end in range(chunk, 90 + chunk, chunk)]]
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert attention_kernels(driver) == {TritonAttention}


def test_a_mixed_batch_in_triton_gives_each_sequence_its_own_logits(tiny_untied: TinyModel) -> None:
    driver = device_driver(tiny_untied)
    prompts = {slot: PROMPT[slot : 3 * slot + 4] for slot in range(1, 6)}
    for slot, prompt in prompts.items():
        driver.seat(slot, prompt)
    first = {slot: len(prompt) - (1 if slot % 2 else 3) for slot, prompt in prompts.items()}
    driver.step(first)
    recorder = Recorder(driver.engine)
    driver.step({slot: 1 if slot % 2 else 3 for slot in prompts})
    expected = torch.stack([tiny_untied.logits(prompt)[-1] for prompt in prompts.values()])
    torch.testing.assert_close(recorder.logits[-1], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_bfloat16_runs_in_flash_and_stays_near_float32(tiny_untied: TinyModel) -> None:
    driver = device_driver(tiny_untied, dtype=DType.BFLOAT16)
    logits = feed(driver, PROMPT, 30)
    expected = tiny_untied.logits(PROMPT)[[29, 59, 89]]
    assert float((logits - expected).abs().mean()) < 0.05 * float(expected.std())
    assert attention_kernels(driver) == {FlashAttention}


def test_a_flash_that_fails_its_self_test_is_replaced_by_triton(tiny_untied: TinyModel) -> None:
    driver = device_driver(
        tiny_untied, dtype=DType.BFLOAT16, attention=DeviceAttentionChooser(CPU, FlashTwin(wrong=True))
    )
    logits = feed(driver, PROMPT[:20], 20)
    expected = tiny_untied.logits(PROMPT[:20])[[19]]
    assert float((logits - expected).abs().mean()) < 0.05 * float(expected.std())
    assert attention_kernels(driver) == {TritonAttention}


def test_a_flash_that_this_build_does_not_have_is_replaced_by_triton(tiny_untied: TinyModel) -> None:
    """torch's own operator refuses CPU tensors."""
    driver = device_driver(tiny_untied, dtype=DType.BFLOAT16, attention=DeviceAttentionChooser(CPU))
    feed(driver, PROMPT[:8], 8)
    assert attention_kernels(driver) == {TritonAttention}


def test_seeded_sampling_gives_the_tokens_of_the_native_path(tiny_untied: TinyModel) -> None:
    params = {"greedy": 0, "seed": 77, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.1}
    ours = device_driver(tiny_untied).generate(1, PROMPT[:12], 6, **params)
    assert ours == Driver(make_engine(tiny_untied.folder)).generate(1, PROMPT[:12], 6, **params)


class LazyOperator:
    """Returns the query: what a step costs in Python beside the kernels themselves."""

    def __call__(self, query: torch.Tensor, *_arguments: object, **_options: object) -> tuple[torch.Tensor]:
        return (query,)


def steady_step(model: TinyModel, rows: int) -> int:
    def attention(shape) -> DeviceAttention:
        layer = DeviceAttention(shape, DeviceAttentionChooser(CPU))
        layer.kernel = FlashAttention(shape, torch_rope_store, LazyOperator())
        return layer

    driver = device_driver(model, attention=attention, concurrent=64)
    params = {"greedy": 0, "seed": 5, "top_p": 0.9, "top_k": 20, "top_tokens": 2, "repetition_penalty": 1.2}
    for slot in range(1, rows + 1):
        driver.seat(slot, [5, 6, 7 + slot], **params)
    slots = range(1, rows + 1)
    driver.step(dict.fromkeys(slots, 3))
    driver.step(dict.fromkeys(slots, 1))
    plan = driver.plan(dict.fromkeys(slots, 1))
    return count_calls(lambda: driver.engine.step(plan))


def test_a_decode_step_on_a_device_does_no_work_row_by_row(tiny_untied: TinyModel) -> None:
    one, many = (steady_step(tiny_untied, rows) for rows in (1, 64))
    assert one > 50
    assert many <= LIMIT * one


def test_index_tensors_are_made_once_a_step() -> None:
    """One set of groups whatever the layers: the second layer uploads nothing."""
    from ribbon_server.layers.attention.ragged import RaggedBatch

    batch = RaggedBatch(np.array([1], np.uint32), np.array([0, 1], np.uint32), np.array([9], np.uint32), CPU)
    assert batch.groups is batch.groups
    group = batch.groups[0]
    assert group.tiles(4) is group.tiles(4)
    assert group.first_tokens(64) is group.first_tokens(64)
    assert batch.token_places is batch.token_places
