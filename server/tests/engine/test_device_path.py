"""The whole engine with a device's layers and sampler, on CPU tensors: Triton interpreted, flash by its twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from layers.flash_twin import FlashTwin
from models.test_parity import PROMPT, Recorder, feed
from tiny import Driver, TinyModel, make_engine, ribbon_ops, save_tiny

from ribbon_server import _native
from ribbon_server.config import DType
from ribbon_server.kv.group import RibbonGroup, RibbonLimits
from ribbon_server.kv.layout import LayerShape, kv_layout
from ribbon_server.kv.operations import OpKind
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


SIMULATED_PAGE = 2**16


@pytest.fixture
def banded_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions behind the fake driver, in bands of two layers, for engines whose tensors lie on the CPU."""

    def layout(_device, layers, itemsize):
        return replace(kv_layout(layers, itemsize, layers_per_band=2), page_bytes=SIMULATED_PAGE)

    def region(layout, limits, _device, _first):
        return _native.Region(
            num_slots=limits.num_slots,
            num_storages=limits.num_storages,
            slot_tokens=layout.whole_tokens(limits.slot_tokens),
            stride_bytes=layout.stride_bytes,
            num_pages=limits.num_pages,
            device=0,
            num_bands=layout.num_bands,
            page_bytes=layout.page_bytes,
            simulated=True,
        )

    monkeypatch.setattr("ribbon_server.models.assemble_attention.layout_on", layout)
    monkeypatch.setattr("ribbon_server.kv.group._region", region)


def flash_in_float32(shape) -> FlashAttention:
    """Without the interpreter, which is slow, and without the operator's limits."""
    return FlashAttention(shape, torch_rope_store, FlashTwin())


@pytest.mark.usefixtures("banded_device")
def test_layers_in_bands_of_a_device_region_give_the_logits_of_transformers(tmp_path) -> None:
    model = save_tiny(tmp_path, num_key_value_heads=4, head_dim=64)  # 4 KiB a token and band: 16 tokens a page
    driver = device_driver(model, attention=flash_in_float32)
    region = driver.engine.ribbons.groups[0].region
    assert (region.num_bands, region.slot_bytes % 4096) == (2, 0)
    logits = feed(driver, PROMPT, 45)
    torch.testing.assert_close(logits, model.logits(PROMPT)[[44, 89]], rtol=TOLERANCE, atol=TOLERANCE)
    assert region.pages_used == 0


@pytest.mark.usefixtures("banded_device")
def test_a_prefix_shown_in_every_band_gives_the_logits_it_gives_alone(tmp_path) -> None:
    model = save_tiny(tmp_path, num_key_value_heads=4, head_dim=64)
    driver = device_driver(model, attention=flash_in_float32)
    driver.seat(1, PROMPT[:60])
    driver.step({1: 60})
    opening = driver.open(2, PROMPT[:60])
    opening["ops"] = [(OpKind.OPEN, 2, 2, 0), (OpKind.SHARE, 2, 1, 53), (OpKind.GROW, 2, 0, 70)]
    driver.step({}, **opening)
    recorder = Recorder(driver.engine)
    driver.step({2: 7})
    torch.testing.assert_close(recorder.logits[-1][0], model.logits(PROMPT[:60])[-1], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "MinistralForCausalLM"])
def test_windows_and_their_groups_reach_flash_and_triton(tmp_path, architecture: str) -> None:
    """The tiny models' windows are far shorter than the prompt."""
    model = save_tiny(tmp_path, architecture)
    flash = feed(device_driver(model, attention=flash_in_float32), PROMPT, 45)
    torch.testing.assert_close(flash, model.logits(PROMPT)[[44, 89]], rtol=TOLERANCE, atol=TOLERANCE)
    triton = feed(device_driver(model), PROMPT[:50], 50)
    torch.testing.assert_close(triton, model.logits(PROMPT[:50])[[49]], rtol=TOLERANCE, atol=TOLERANCE)


def test_pages_that_a_plan_grows_into_are_prepared_and_the_rest_is_left_to_the_region() -> None:
    layout = replace(kv_layout([LayerShape(4, 64)] * 2, 4), page_bytes=SIMULATED_PAGE)
    limits = RibbonLimits(num_slots=3, num_storages=6, slot_tokens=64, num_pages=8)
    group = RibbonGroup(layout, limits)
    group.region = _native.Region(
        num_slots=3,
        num_storages=6,
        slot_tokens=64,
        stride_bytes=layout.stride_bytes,
        num_pages=8,
        device=0,
        simulated=True,
    )
    plan = [(OpKind.OPEN, 1, 1, 0), (OpKind.GROW, 1, 0, 33), (OpKind.GROW, 9, 0, 5), (OpKind.GROW, 2, 0, 65)]
    group.prefetch(ribbon_ops(plan))
    assert group.region.settle(60.0)
    assert group.region.map_statistics()["prefetched_pages"] == 0  # on the CPU there is nothing to prepare
    group.device = torch.device("cuda", 0)
    group.prefetch(ribbon_ops(plan))
    assert group.region.settle(60.0)
    assert group.region.map_statistics()["prefetched_pages"] == layout.slot_pages(33)


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
