"""MXFP4 weights against a decoder of our own that works number by number, and against transformers'."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models.test_loader import spoil_config
from safetensors.torch import load_file, save_file
from tiny import TinyModel, save_tiny
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from ribbon_server.config import DType
from ribbon_server.errors import WeightsMismatch
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.mxfp4 import decoded
from ribbon_server.models.open import open_model

GENERATOR = np.random.default_rng(12)
EXPERTS = "model.layers.{}.mlp.experts.{}_proj"
WEIGHTS = [EXPERTS.format(layer, part) for layer in range(3) for part in ("gate_up", "down")]


def number(bits: int) -> float:
    """Four bits as the standard says it: a sign, two bits of exponent with bias 1, one of fraction."""
    sign, exponent, fraction = bits >> 3, bits >> 1 & 3, bits & 1
    size = (1 + fraction / 2) * 2 ** (exponent - 1) if exponent else fraction / 2
    return -size if sign else size


def by_hand(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float64 [..., count * 32] of blocks [..., count, 16] and scales [..., count]."""
    out = np.zeros((*scales.shape, 32))
    for place in np.ndindex(*blocks.shape):
        power = 2.0 ** (int(scales[place[:-1]]) - 127)
        low, high = int(blocks[place]) & 15, int(blocks[place]) >> 4
        out[(*place[:-1], 2 * place[-1])] = number(low) * power
        out[(*place[:-1], 2 * place[-1] + 1)] = number(high) * power
    return out.reshape(*scales.shape[:-1], -1)


def random_packed(*rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    blocks = GENERATOR.integers(0, 256, (*rows, columns // 32, 16)).astype(np.uint8)
    return blocks, GENERATOR.integers(118, 124, (*rows, columns // 32)).astype(np.uint8)


def test_every_number_is_exactly_the_one_that_was_meant() -> None:
    blocks, scales = random_packed(3, 5, columns=64)
    blocks.reshape(-1)[:256] = np.arange(256)[: blocks.size]
    scales.reshape(-1)[:4] = [0, 1, 127, 250]
    found = decoded(torch.from_numpy(blocks), torch.from_numpy(scales))
    np.testing.assert_array_equal(found.double().numpy(), by_hand(blocks, scales))


def test_transformers_decodes_alike() -> None:
    blocks, scales = (torch.from_numpy(part) for part in random_packed(2, 6, columns=96))
    expected = convert_moe_packed_tensors(blocks, scales)  # [experts, in, out]
    assert torch.equal(decoded(blocks, scales).transpose(1, 2), expected)


@pytest.fixture
def packed(tmp_path: Path) -> tuple[TinyModel, Path]:
    """A model whose experts are MXFP4, and its twin in transformers, which has the same numbers in float32."""
    plain = tmp_path / "plain"
    plain.mkdir()
    twin = save_tiny(plain, "GptOssForCausalLM", hidden_size=64, intermediate_size=96)
    tensors = load_file(plain / "model.safetensors")
    state = twin.reference.state_dict()
    for name in WEIGHTS:
        _, inner, rows = tensors.pop(name).shape
        blocks, scales = random_packed(4, rows, columns=inner)
        tensors[name + "_blocks"], tensors[name + "_scales"] = torch.from_numpy(blocks), torch.from_numpy(scales)
        state[name].copy_(torch.from_numpy(by_hand(blocks, scales)).transpose(1, 2))
    save_file(tensors, plain / "model.safetensors")
    spoil_config(plain, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return twin, plain


def test_a_packed_model_loads_as_its_plain_twin(packed: tuple[TinyModel, Path]) -> None:
    twin, folder = packed
    from ribbon_server.models.checkpoint import SafetensorsCheckpoint
    from ribbon_server.models.mxfp4 import unpacked

    checkpoint = unpacked(SafetensorsCheckpoint(folder))
    state = twin.reference.state_dict()
    assert set(checkpoint.names()) == set(state)
    for name in WEIGHTS:
        assert checkpoint.shape(name) == tuple(state[name].shape)
        assert torch.equal(checkpoint.read(name).float(), state[name])
    assert open_model(folder, DType.FLOAT32, REFERENCE).decoder.num_parameters == sum(
        parameter.numel() for parameter in twin.reference.parameters()
    )


def test_blocks_without_their_scales_are_named(packed: tuple[TinyModel, Path]) -> None:
    _, folder = packed
    tensors = load_file(folder / "model.safetensors")
    del tensors[WEIGHTS[1] + "_scales"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"lacks model\.layers\.0\.mlp\.experts\.down_proj"):
        open_model(folder, DType.FLOAT32, REFERENCE)


def test_scales_of_another_shape_are_refused(packed: tuple[TinyModel, Path]) -> None:
    _, folder = packed
    tensors = load_file(folder / "model.safetensors")
    tensors[WEIGHTS[0] + "_scales"] = tensors[WEIGHTS[0] + "_scales"][:, :5].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"gate_up_proj_blocks has shape .* MXFP4 has uint8 scales"):
        open_model(folder, DType.FLOAT32, REFERENCE)
