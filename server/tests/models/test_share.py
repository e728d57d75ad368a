"""What a rank computes of a model, and what cannot be dealt out: said by name, from the numbers alone."""

from dataclasses import replace

import pytest

from ribbon_server.distributed.sharding import ALONE, Rank
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import families
from ribbon_server.models.share import share_of
from ribbon_server.models.spec import Experts, ModelSpec, Norm, NormScope, QkNorm


def spec_of(architecture: str, **fields: object) -> ModelSpec:
    """Of the family's tiny configuration."""
    family = families()[architecture]
    return family.build(HfConfig({**family.tiny.fields, "architectures": [architecture], **fields}))


def test_a_rank_has_its_part_of_heads_columns_and_experts() -> None:
    spec = spec_of("MixtralForCausalLM", num_attention_heads=8, num_key_value_heads=2)
    for world_size in (1, 2, 4):
        (own,) = set(share_of(spec, Rank(world_size - 1, world_size)).layers)
        assert own.attention.num_heads == 8 // world_size
        assert own.attention.num_kv_heads == max(1, 2 // world_size)
        assert isinstance(own.feed_forward, Experts)
        assert own.feed_forward.num_experts == spec.layers[0].feed_forward.num_experts // world_size
    assert share_of(spec, ALONE) is spec


@pytest.mark.parametrize(
    ("architecture", "fields", "words"),
    [
        ("LlamaForCausalLM", {"num_attention_heads": 9, "num_key_value_heads": 9}, "9 attention heads, .* 2 shards"),
        ("LlamaForCausalLM", {"num_attention_heads": 6, "num_key_value_heads": 3}, "3 key-value heads, .* 2 shards"),
        ("LlamaForCausalLM", {"intermediate_size": 77}, "77 feed-forward columns, .* 2 shards"),
        ("MixtralForCausalLM", {"num_local_experts": 5}, "5 experts, .* 2 shards"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused_by_name(architecture: str, fields: dict, words: str) -> None:
    with pytest.raises(ModelNotSupported, match=f"{words}; use another `--num-shard`"):
        share_of(spec_of(architecture, **fields), Rank(0, 2))


def test_a_layer_norm_over_all_heads_is_refused() -> None:
    spec = spec_of("LlamaForCausalLM")
    joint = QkNorm(Norm.layer(1e-5), NormScope.ALL_HEADS)
    layers = tuple(replace(layer, attention=replace(layer.attention, qk_norm=joint)) for layer in spec.layers)
    with pytest.raises(ModelNotSupported, match="layer norm over all heads"):
        share_of(replace(spec, layers=layers), Rank(0, 2))
