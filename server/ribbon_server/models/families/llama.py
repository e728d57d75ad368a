"""Llama 1 to 3.2, and everything that kept its block. https://arxiv.org/abs/2302.13971"""

from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.names import NameRow, NameTable, Role
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import (
    Activation,
    Dense,
    Grouped,
    LayerSpec,
    LinearRope,
    Llama3Rope,
    ModelSpec,
    Norm,
    Residual,
    Rope,
    RopeScaling,
    UnscaledRope,
)

BLOCK = "model.layers.{layer}."
QKV = tuple(f"{BLOCK}self_attn.{part}_proj" for part in "qkv")
GATE_UP = tuple(f"{BLOCK}mlp.{part}_proj" for part in ("gate", "up"))

NAMES = NameTable(
    embedding="model.embed_tokens.weight",
    layer=(
        NameRow("attention_norm", (f"{BLOCK}input_layernorm.weight",), Role.REPLICATED),
        NameRow("qkv", tuple(f"{name}.weight" for name in QKV), Role.COLUMN),
        NameRow("qkv_bias", tuple(f"{name}.bias" for name in QKV), Role.COLUMN),
        NameRow("output", (f"{BLOCK}self_attn.o_proj.weight",), Role.ROW),
        NameRow("output_bias", (f"{BLOCK}self_attn.o_proj.bias",), Role.REPLICATED),
        NameRow("feed_forward_norm", (f"{BLOCK}post_attention_layernorm.weight",), Role.REPLICATED),
        NameRow("gate_up", tuple(f"{name}.weight" for name in GATE_UP), Role.COLUMN),
        NameRow("gate_up_bias", tuple(f"{name}.bias" for name in GATE_UP), Role.COLUMN),
        NameRow("down", (f"{BLOCK}mlp.down_proj.weight",), Role.ROW),
        NameRow("down_bias", (f"{BLOCK}mlp.down_proj.bias",), Role.REPLICATED),
    ),
    final_norm="model.norm.weight",
    head="lm_head.weight",
    ignored=("rotary_emb.inv_freq",),
)

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
    }
)


@family("LlamaForCausalLM", names=NAMES, tiny=TINY)
def llama(config: HfConfig) -> ModelSpec:
    """Pre-norm blocks of grouped attention with rotary positions and a gated feed-forward."""
    layer = LayerSpec(
        attention_norm=Norm.rms(config.number("rms_norm_eps", 1e-6)),
        attention=attention(config),
        feed_forward_norm=Norm.rms(config.number("rms_norm_eps", 1e-6)),
        feed_forward=feed_forward(config),
        residual=Residual.PRE_NORM,
    )
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        max_positions=config.integer("max_position_embeddings", 2048),
        layers=(layer,) * config.integer("num_hidden_layers"),
        final_norm=layer.attention_norm,
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
    )


def attention(config: HfConfig) -> Grouped:
    """Grouped attention; head_dim defaults to hidden / heads."""
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads != 0:
        raise ModelNotSupported(f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads evenly")
    head_dim = config.integer("head_dim", max(1, config.integer("hidden_size") // heads))
    if head_dim % 2:
        raise ModelNotSupported(
            f"config.json: `head_dim` is {head_dim}; rotary positions turn pairs, so it must be even"
        )
    bias = config.flag("attention_bias", default=False)
    return Grouped(heads, kv_heads, head_dim, head_dim**-0.5, rope(config, head_dim), qkv_bias=bias, output_bias=bias)


def feed_forward(config: HfConfig) -> Dense:
    """The gated feed-forward part."""
    activation = config.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelNotSupported(f"config.json: `hidden_act` is {activation!r}; Llama models here have silu")
    return Dense(config.integer("intermediate_size"), Activation.SILU, config.flag("mlp_bias", default=False))


def rope(config: HfConfig, head_dim: int) -> Rope:
    """Rotary positions; newer files say them in `rope_parameters`, older ones in `rope_theta` and `rope_scaling`."""
    section = config.section("rope_parameters") or config.section("rope_scaling")
    holder = section if section is not None and "rope_theta" in section else config
    return Rope(holder.number("rope_theta", 10000.0), head_dim, rope_scaling(section))


def rope_scaling(section: HfConfig | None) -> RopeScaling:
    """The scaling a configuration names, by `rope_type` (older files: `type`)."""
    kind = "default" if section is None else section.text("rope_type", section.text("type", "default"))
    if section is None or kind == "default":
        return UnscaledRope()
    if kind == "linear":
        return LinearRope(section.number("factor"))
    if kind == "llama3":
        return Llama3Rope(
            factor=section.number("factor"),
            low_freq_factor=section.number("low_freq_factor"),
            high_freq_factor=section.number("high_freq_factor"),
            original_max_positions=section.integer("original_max_position_embeddings"),
        )
    raise ModelNotSupported(
        f"config.json: rope type `{kind}` is not supported; this server has default, linear and llama3"
    )
