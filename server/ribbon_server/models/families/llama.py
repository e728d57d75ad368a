"""Llama 1 to 3.x, and everything that kept its block and names. https://arxiv.org/abs/2302.13971"""

from dataclasses import replace

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation, decoder, heads
from ribbon_server.models.hf_rope import rope, stretched_positions
from ribbon_server.models.names import NameTable
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, Grouped, LayerSpec, ModelSpec, Norm

NAMES = NameTable(
    stem="model.layers.{layer}.",
    layer={
        "attention_norm": "input_layernorm",
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "output": "self_attn.o_proj",
        "feed_forward_norm": "post_attention_layernorm",
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": "mlp.down_proj",
    },
    outer={"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"},
    ignored=("rotary_emb.inv_freq",),
    older=(("model.", ""),),
)

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 4096}
TINY = TinyConfig(
    {
        "vocab_size": 160,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
    },
    {
        "biases, tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}},
        "dynamic rope": {
            "max_position_embeddings": 48,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 4.0},
        },
        "llama3 rope": {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        "yarn rope": {"rope_parameters": YARN},
        "yarn rope, untruncated": {"rope_parameters": {**YARN, "truncate": False, "attention_factor": 1.3}},
    },
)


@family("LlamaForCausalLM", "LLaMAForCausalLM", names=NAMES, tiny=TINY)
def llama(config: HfConfig) -> ModelSpec:
    """Pre-norm blocks of grouped attention with rotary positions and a gated feed-forward."""
    norm = Norm.rms(config.number("rms_norm_eps", 1e-6))
    attention = grouped(config)
    spec = decoder(config, LayerSpec(norm, attention, norm, gated(config)), norm, is_tied=False)
    return replace(spec, max_positions=stretched_positions(attention.rope, spec.max_positions))


def grouped(config: HfConfig) -> Grouped:
    """Grouped attention; head_dim defaults to hidden / heads."""
    num_heads, kv_heads = heads(config)
    head_dim = config.integer("head_dim", max(1, config.integer("hidden_size") // num_heads))
    bias = config.flag("attention_bias", default=False)
    return Grouped(num_heads, kv_heads, head_dim, head_dim**-0.5, rope(config, head_dim), bias, bias)


def gated(config: HfConfig) -> Dense:
    """The gated feed-forward part."""
    function = activation(config, "hidden_act", "silu")
    return Dense(config.integer("intermediate_size"), function, config.flag("mlp_bias", default=False))
