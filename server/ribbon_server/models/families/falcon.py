"""Falcon 7B, 40B and the RefinedWeb models, which are three forms of one block. https://arxiv.org/abs/2311.16867"""

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import Sizes, activation, decoder, whole_heads
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.names import Fused, NameTable, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Alibi, Dense, Grouped, LayerSpec, ModelSpec, Norm, Residual

NAMES = NameTable(
    stem="transformer.h.{layer}.",
    layer={
        "attention_norm": "input_layernorm",
        "qkv": Tensors(("self_attention.query_key_value",), Fused.GROUPED),
        "output": "self_attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "gate_up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
    outer={"embedding": "transformer.word_embeddings", "final_norm": "transformer.ln_f", "head": "lm_head"},
    older=(("transformer.", ""),),
    instead=({"attention_norm": "ln_attn", "feed_forward_norm": "ln_mlp"},),
)
TINY = TinyConfig(
    {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
    {
        "new decoder": {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 96},
        "new decoder, one norm": {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        "RefinedWeb": {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    },
)


@family("FalconForCausalLM", "RWForCausalLM", "RefinedWebModel", names=NAMES, tiny=TINY)
def falcon(config: HfConfig) -> ModelSpec:
    """7B: one norm, one key-value head; 40B: two norms, several; RefinedWeb: ALiBi, biases, the parts one after the other."""
    norm = Norm.layer(config.number("layer_norm_epsilon", 1e-5))
    attention = _attention(config)
    hidden = config.name_of("hidden_size", "n_embed")
    width = config.integer("ffn_hidden_size", 4 * config.integer(hidden))
    bias = config.flag("bias", default=False)
    feed_forward = Dense(width, activation(config, "activation", "gelu"), bias, gated=False)
    layers = config.name_of("num_hidden_layers", "n_layer")
    layer = LayerSpec(norm, attention, norm if _has_two_norms(config) else None, feed_forward, _residual(config))
    return decoder(config, layer, norm, is_tied=True, sizes=Sizes(hidden, layers=layers))


def _is_new(config: HfConfig) -> bool:
    return config.flag("new_decoder_architecture", default=False)


def _residual(config: HfConfig) -> Residual:
    is_parallel = _is_new(config) or config.flag("parallel_attn", default=True)
    return Residual.PARALLEL if is_parallel else Residual.SEQUENTIAL


def _has_two_norms(config: HfConfig) -> bool:
    if _is_new(config):
        return config.integer("num_ln_in_parallel_attn", 2) == 2
    return not config.flag("parallel_attn", default=True)


def _attention(config: HfConfig) -> Grouped:
    num_heads = config.integer(config.name_of("num_attention_heads", "n_head"))
    kv_heads = config.integer(config.name_of("num_kv_heads", "n_head_kv"), num_heads)
    if not _is_new(config) and config.flag("multi_query", default=True):
        kv_heads = 1
    head_dim = whole_heads(config, num_heads, config.name_of("hidden_size", "n_embed"))
    bias = config.flag("bias", default=False)
    if not config.flag("alibi", default=False):
        return Grouped(num_heads, kv_heads, head_dim, head_dim**-0.5, rope(config, head_dim), bias, bias)
    # The slopes are scaled as the scores are.
    alibi = Alibi(scale=head_dim**-0.5)
    return Grouped(num_heads, kv_heads, head_dim, head_dim**-0.5, None, bias, bias, alibi=alibi)
