"""Baichuan 1 and 2: Llama's block with joined projections; 13B has ALiBi. https://arxiv.org/abs/2309.10305"""

from dataclasses import replace

from ribbon_server.models.families.llama import NAMES, gated
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import Sizes, decoder, whole_heads
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Alibi, Grouped, Head, LayerSpec, ModelSpec, Norm

SIZES = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
TINY = TinyConfig(
    {**SIZES, "rms_norm_eps": 1e-5, "model_max_length": 256},
    {
        "7B": {"max_position_embeddings": 256},
        "version 2": {"z_loss_weight": 0, "num_attention_heads": 6, "hidden_size": 96},
    },
)
VOCAB_2 = 125696  # the mark of version 2 in files that say nothing else


@family("BaichuanForCausalLM", "BaiChuanForCausalLM", names=NAMES.but(qkv="self_attn.W_pack"), tiny=TINY)
def baichuan(config: HfConfig) -> ModelSpec:
    """7B says `max_position_embeddings` and turns its heads, 13B does not; version 2 has a head of unit rows."""
    norm = Norm.rms(config.number("rms_norm_eps", 1e-6))
    num_heads = config.integer("num_attention_heads")
    head_dim = whole_heads(config, num_heads)
    is_rotary = "max_position_embeddings" in config
    turned = rope(config, head_dim) if is_rotary else None
    attention = Grouped(num_heads, num_heads, head_dim, head_dim**-0.5, turned, qkv_bias=False, output_bias=False)
    attention = attention if is_rotary else replace(attention, alibi=Alibi())
    sizes = Sizes(positions=config.name_of("max_position_embeddings", "model_max_length"))
    is_second = "z_loss_weight" in config or config.integer("vocab_size") == VOCAB_2
    layer = LayerSpec(norm, attention, norm, gated(config))
    return decoder(config, layer, norm, is_tied=False, sizes=sizes, head=Head(unit_rows=is_second))
