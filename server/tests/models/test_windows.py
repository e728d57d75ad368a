"""Sliding windows: Mistral and its mixed sibling against transformers, with the front of every ribbon given up on the way."""

import numpy as np
import pytest
import torch
from models.test_parity import TOLERANCE, Recorder
from tiny import Driver, TinyModel, make_engine, save_tiny

from ribbon_server.config import DType
from ribbon_server.kv.ribbons import OpKind
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import family_of

PROMPT = np.random.default_rng(6).integers(3, 160, 150).tolist()
WINDOW = 24


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save_tiny(tmp_path_factory.mktemp("mistral"), "MistralForCausalLM")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save_tiny(tmp_path_factory.mktemp("ministral"), "MinistralForCausalLM")


@pytest.fixture(params=["windowed", "mixed"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    return request.getfixturevalue(request.param)


def trims(driver: Driver, slot: int) -> list[tuple[int, int, int, int, int]]:
    """Gives up all that the next token's window does not reach, in the groups that have one."""
    length = int(driver.engine.sequences.length[slot])
    groups = enumerate(driver.engine.ribbons.groups)
    windows = [(number, group.layout.window) for number, group in groups if group.layout.window]
    return [(OpKind.TRIM_FRONT, slot, 0, max(0, length + 1 - window), number) for number, window in windows]


def feed(driver: Driver, tokens: list[int], chunk: int) -> torch.Tensor:
    """Logits after every `chunk` tokens of slot 1, teacher-forced, the front given up after every step: [chunks, vocab]."""
    recorder = Recorder(driver.engine)
    driver.seat(1, tokens[:chunk], room=len(tokens[chunk:]))
    for begin in range(0, len(tokens), chunk):
        end = min(begin + chunk, len(tokens))
        state = driver.engine.sequences.state
        state.history[1, :end], state.known[1] = tokens[:end], end
        outcome = driver.step({1: end - begin}, ops=trims(driver, 1))
        assert (outcome.failure, outcome.errors) == ("", [])
    driver.close(1)
    driver.engine.decoder.forward = recorder._forward
    return torch.cat(recorder.logits)


@pytest.mark.parametrize("kernels", [None, REFERENCE], ids=["native", "reference"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 150])
def test_every_chunk_size_gives_the_logits_of_transformers(model: TinyModel, chunk: int, kernels) -> None:
    logits = feed(Driver(make_engine(model.folder, kernels=kernels)), PROMPT, chunk)
    expected = model.logits(PROMPT)[[min(end, len(PROMPT)) - 1 for end in range(chunk, len(PROMPT) + chunk, chunk)]]
    assert float(expected.std()) > 0.5  # logits that say something
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_window_matters(model: TinyModel, tmp_path) -> None:
    """Without it the logits are others: the test above could not pass by chance."""
    wide = save_tiny(tmp_path, type(model.reference).__name__, sliding_window=400)
    difference = (wide.logits(PROMPT)[-1] - model.logits(PROMPT)[-1]).abs().max()
    assert float(difference) > 20 * TOLERANCE


def test_bfloat16_stays_near_float32(model: TinyModel) -> None:
    logits = feed(Driver(make_engine(model.folder, dtype=DType.BFLOAT16)), PROMPT, 50)
    expected = model.logits(PROMPT)[[49, 99, 149]]
    assert float((logits - expected).abs().mean()) < 0.05 * float(expected.std())


def test_a_batch_with_windows_gives_each_sequence_its_own_logits(model: TinyModel) -> None:
    driver = Driver(make_engine(model.folder))
    prompts = {slot: PROMPT[slot : 9 * slot + 20] for slot in range(1, 7)}
    for slot, prompt in prompts.items():
        driver.seat(slot, prompt)
    driver.step({slot: len(prompt) - 3 for slot, prompt in prompts.items()})
    recorder = Recorder(driver.engine)
    ops = [op for slot in prompts for op in trims(driver, slot)]
    driver.step(dict.fromkeys(prompts, 3), ops=ops)
    expected = torch.stack([model.logits(prompt)[-1] for prompt in prompts.values()])
    torch.testing.assert_close(recorder.logits[-1], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_memory_stays_flat_over_a_long_generation(windowed: TinyModel) -> None:
    driver = Driver(make_engine(windowed.folder))
    ribbons = driver.engine.ribbons
    driver.seat(1, PROMPT[:40], room=1)
    driver.step({1: 40})
    resident = []
    for _ in range(200):
        length = int(driver.engine.sequences.length[1])
        outcome = driver.step({1: 1}, ops=[(OpKind.GROW, 1, 0, length + 1), *trims(driver, 1)])
        assert (outcome.failure, outcome.errors) == ("", [])
        resident.append(ribbons.resident_bytes)
        assert ribbons.resident_bytes == 4096 * ribbons.pages_used
    needed = WINDOW * ribbons.groups[0].layout.stride_bytes
    assert max(resident[50:]) <= needed + 2 * 4096
    driver.close(1)
    assert ribbons.resident_bytes == 0


def test_layers_with_and_without_a_window_lie_in_two_groups_over_one_pool(mixed: TinyModel) -> None:
    ribbons = make_engine(mixed.folder).ribbons
    assert [(len(group.layout.layers), group.layout.window) for group in ribbons.groups] == [(2, WINDOW), (1, None)]
    driver = Driver(make_engine(mixed.folder))
    driver.seat(1, PROMPT, room=50)
    regions = [group.region for group in driver.engine.ribbons.groups]
    used = [region.pages_used for region in regions]
    assert min(used) > 0
    total = driver.engine.ribbons.limits.num_pages
    assert {region.pages_available for region in regions} == {total - sum(used)}


def test_a_slot_that_begins_elsewhere_in_another_group_is_void(mixed: TinyModel) -> None:
    driver = Driver(make_engine(mixed.folder))
    driver.seat(1, PROMPT)
    driver.step({1: len(PROMPT)})
    assert not driver.step({}, ops=[(OpKind.CLOSE, 1, 0, 1)]).failure
    torn = [(OpKind.OPEN, 2, 1, 30, 1), (OpKind.OPEN, 2, 2, 0, 0), (OpKind.GROW, 2, 0, 40, 0)]
    admitted = driver.open(2, PROMPT[:40])["admitted"]
    outcome = driver.step({2: 10}, admitted=admitted, ops=torn, wanted=[1])
    assert "slot 2 begins at token 0 in one group and at 30 in another" in outcome.failure
    driver.close(2)
    driver.step()
    assert driver.generate(2, PROMPT[:40], 2)


def test_a_null_window_is_none_and_layer_types_are_checked() -> None:
    fields = {
        **family_of("MistralForCausalLM").tiny.fields,
        "architectures": ["MistralForCausalLM"],
        "sliding_window": None,
    }
    spec = family_of("MistralForCausalLM").build(HfConfig(fields))
    assert {layer.attention.window for layer in spec.layers} == {None}
    for kinds in (["full_attention"], ["full_attention", "chunked_attention", "full_attention"], "full_attention"):
        with pytest.raises(ValueError, match="`layer_types` is"):
            family_of("MinistralForCausalLM").build(HfConfig({**fields, "layer_types": kinds}))
