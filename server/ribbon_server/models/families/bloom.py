"""BLOOM: ALiBi, a norm behind the embedding, heads stored one by one. https://arxiv.org/abs/2211.05100"""

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import Sizes, decoder, whole_heads
from ribbon_server.models.names import Fused, NameTable, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Activation, Alibi, Dense, Embedding, Grouped, LayerSpec, ModelSpec, Norm

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
    outer={
        "embedding": "transformer.word_embeddings",
        "embedding_norm": "transformer.word_embeddings_layernorm",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
    older=(("transformer.", ""),),
)
TINY = TinyConfig(
    {"vocab_size": 160, "hidden_size": 64, "n_layer": 3, "n_head": 4}, {"six heads": {"hidden_size": 96, "n_head": 6}}
)


@family("BloomForCausalLM", "BloomModel", names=NAMES, tiny=TINY)
def bloom(config: HfConfig) -> ModelSpec:
    """Pre-norm blocks with biases everywhere; positions are no part of the embedding, so the context has no hard end."""
    if config.flag("apply_residual_connection_post_layernorm", default=False):
        raise config.refuse("apply_residual_connection_post_layernorm", "false")
    norm = Norm.layer(config.number("layer_norm_epsilon", 1e-5))
    hidden, num_heads = (
        config.name_of("hidden_size", "n_embed"),
        config.integer(config.name_of("n_head", "num_attention_heads")),
    )
    head_dim = whole_heads(config, num_heads, hidden)
    attention = Grouped(
        num_heads, num_heads, head_dim, head_dim**-0.5, None, qkv_bias=True, output_bias=True, alibi=Alibi()
    )
    feed_forward = Dense(4 * config.integer(hidden), Activation.GELU_TANH, bias=True, gated=False)
    sizes = Sizes(hidden, "seq_length", config.name_of("n_layer", "num_hidden_layers"))
    layer = LayerSpec(norm, attention, norm, feed_forward)
    return decoder(config, layer, norm, is_tied=True, sizes=sizes, embedding=Embedding(norm=norm))
