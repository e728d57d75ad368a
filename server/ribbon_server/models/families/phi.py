"""Phi 1, 1.5 and 2: one norm for both parts, a partly turned head, biases everywhere. https://arxiv.org/abs/2309.05463"""

from ribbon_server.models.families.llama import NAMES
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation, decoder, heads, whole_heads
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, Grouped, Head, LayerSpec, ModelSpec, Norm, QkNorm, Residual

NAMES_PHI = NAMES.but(
    output="self_attn.dense",
    gate_up="mlp.fc1",
    down="mlp.fc2",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
).but_outer(final_norm="model.final_layernorm")
TINY = TinyConfig(
    {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    {"grouped, normed": {"num_key_value_heads": 2, "qk_layernorm": True}},
)


@family("PhiForCausalLM", names=NAMES_PHI, tiny=TINY)
def phi(config: HfConfig) -> ModelSpec:
    """Attention and a plain feed-forward part side by side."""
    norm = Norm.layer(config.number("layer_norm_eps", 1e-5))
    num_heads, kv_heads = heads(config)
    head_dim = whole_heads(config, num_heads)
    attention = Grouped(
        num_heads,
        kv_heads,
        head_dim,
        head_dim**-0.5,
        rope(config, head_dim, share=0.5),
        qkv_bias=True,
        output_bias=True,
        qk_norm=QkNorm(norm) if config.flag("qk_layernorm", default=False) else None,
    )
    function = activation(config, "hidden_act", "gelu_new")
    feed_forward = Dense(config.integer("intermediate_size"), function, bias=True, gated=False)
    layer = LayerSpec(norm, attention, None, feed_forward, Residual.PARALLEL)
    return decoder(config, layer, norm, is_tied=False, head=Head(bias=True))
