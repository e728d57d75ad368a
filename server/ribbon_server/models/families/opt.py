"""OPT and Galactica: learned positions from the third row on. https://arxiv.org/abs/2205.01068"""

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation, decoder, whole_heads
from ribbon_server.models.names import NameTable
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import (
    Dense,
    Embedding,
    Grouped,
    LayerSpec,
    LearnedPositions,
    ModelSpec,
    Norm,
    NormKind,
    Residual,
)

NAMES = NameTable(
    stem="model.decoder.layers.{layer}.",
    layer={
        "attention_norm": "self_attn_layer_norm",
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "output": "self_attn.out_proj",
        "feed_forward_norm": "final_layer_norm",
        "gate_up": "fc1",
        "down": "fc2",
    },
    outer={
        "embedding": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "embedding_up": "model.decoder.project_in",
        "embedding_down": "model.decoder.project_out",
        "final_norm": "model.decoder.final_layer_norm",
        "head": "lm_head",
    },
    older=(("model.decoder.", "decoder."),),
)
TINY = TinyConfig(
    {
        "vocab_size": 160,
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    {
        "norms behind, narrow": {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
        "bare": {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"},
    },
)


@family("OPTForCausalLM", names=NAMES, tiny=TINY)
def opt(config: HfConfig) -> ModelSpec:
    """Pre-norm blocks, but for the 350 M model: norms behind each sum, and an embedding narrower than the stream."""
    is_weighted = config.flag("layer_norm_elementwise_affine", default=True)
    norm = Norm(NormKind.LAYER, 1e-5, bias=is_weighted, weighted=is_weighted)
    num_heads = config.integer("num_attention_heads")
    head_dim = whole_heads(config, num_heads)
    bias = config.flag("enable_bias", default=True)
    attention = Grouped(num_heads, num_heads, head_dim, head_dim**-0.5, None, qkv_bias=bias, output_bias=bias)
    feed_forward = Dense(
        config.integer("ffn_dim"), activation(config, "activation_function", "relu"), bias, gated=False
    )
    is_before = config.flag("do_layer_norm_before", default=True)
    has_final = is_before and not config.flag("_remove_final_layer_norm", default=False)
    residual = Residual.SEQUENTIAL if is_before else Residual.NORM_AFTER_SUM
    hidden = config.integer("hidden_size")
    width = config.integer("word_embed_proj_dim", hidden)
    embedding = Embedding(positions=LearnedPositions(offset=2), width=None if width == hidden else width)
    layer = LayerSpec(norm, attention, norm, feed_forward, residual)
    return decoder(config, layer, norm if has_final else None, is_tied=True, embedding=embedding)
