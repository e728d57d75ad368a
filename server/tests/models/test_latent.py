"""Latent attention and its routers, where parity does not look: what a token keeps, what stays exact, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.test_loader import spoil_config, spoil_weights
from tiny import TinyModel, save_tiny

from ribbon_server.config import DType
from ribbon_server.errors import ModelNotSupported, WeightsMismatch
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.loader import load_weights
from ribbon_server.models.open import open_model
from ribbon_server.models.registry import family_of

RANK, TURNED, LAYERS = 24, 8, 3


@pytest.fixture
def latent(tmp_path: Path) -> TinyModel:
    model = save_tiny(tmp_path, "DeepseekV3ForCausalLM")
    model.reference.save_pretrained(tmp_path)  # under the names that checkpoints have
    return model


@pytest.mark.parametrize(("dtype", "itemsize"), [(DType.FLOAT32, 4), (DType.BFLOAT16, 2)])
def test_a_token_keeps_one_latent_and_one_key_a_layer(latent: TinyModel, dtype: DType, itemsize: int) -> None:
    (layout,) = open_model(latent.folder, dtype, REFERENCE).decoder.kv_layouts
    record = (RANK + TURNED) * itemsize
    assert layout.layer_offsets == tuple(record * layer for layer in range(LAYERS))
    assert layout.stride_bytes == -(-LAYERS * record // 64) * 64


def test_the_correction_of_experts_stays_exact_in_a_narrow_model(latent: TinyModel) -> None:
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    exact = 14.0 + torch.arange(8) / 1000
    spoil_weights(latent.folder, lambda tensors: tensors.update({name: exact}))
    checkpoint, family = SafetensorsCheckpoint(latent.folder), family_of("DeepseekV3ForCausalLM")
    weights = load_weights(family.build(checkpoint.config), family.names, checkpoint, torch.bfloat16)
    assert torch.equal(weights["layers.1.router_correction"], exact)
    assert {weight.dtype for name, weight in weights.items() if "correction" not in name} == {torch.bfloat16}


def test_layers_that_predict_further_tokens_are_passed_over(latent: TinyModel) -> None:
    tensors = {
        f"model.layers.{LAYERS}.eh_proj.weight": torch.zeros(2),
        f"model.layers.{LAYERS}.norm.weight": torch.ones(2),
    }
    spoil_weights(latent.folder, lambda found: found.update(tensors))
    open_model(latent.folder, None, REFERENCE)
    family = family_of("DeepseekV3ForCausalLM")
    table = replace(family.names, ignores_further_layers=False)
    checkpoint = SafetensorsCheckpoint(latent.folder)
    with pytest.raises(WeightsMismatch, match=r"does not use, model\.layers\.3\.eh_proj\.weight"):
        load_weights(family.build(checkpoint.config), table, checkpoint, torch.float32)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n_group": 3}, "`n_group` is 3; it must be a divisor of 8 experts that leaves groups of at least 2"),
        ({"n_group": 8}, "`n_group` is 8; it must be a divisor of 8 experts that leaves groups of at least 2"),
        ({"topk_group": 5}, "`topk_group` is 5; it must be at most 4, the number of groups"),
        ({"scoring_func": "softmax"}, "`scoring_func` is 'softmax'; it must be sigmoid"),
        ({"topk_method": "greedy"}, "`topk_method` is 'greedy'; it must be noaux_tc"),
        ({"moe_layer_freq": 2}, "`moe_layer_freq` is 2; it must be 1"),
        ({"num_experts_per_tok": 5}, "`num_experts_per_tok` is 5; it must be at most 4, the experts of 2 groups"),
    ],
)
def test_a_router_that_cannot_be_is_refused(latent: TinyModel, fields: dict[str, object], reason: str) -> None:
    spoil_config(latent.folder, **fields)
    with pytest.raises(ModelNotSupported) as caught:
        open_model(latent.folder, None, REFERENCE)
    assert reason in str(caught.value)
