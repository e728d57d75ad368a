"""Gemma, Gemma 2 and the text part of Gemma 3. https://arxiv.org/abs/2403.08295, https://arxiv.org/abs/2408.00118"""

from dataclasses import replace

from ribbon_server.models.families.llama import NAMES, TINY, grouped
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import FULL, WINDOWED, activation, decoder, window, windowed_layers
from ribbon_server.models.hf_rope import rope_of
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Activation, Dense, Embedding, Head, LayerSpec, ModelSpec, Norm, QkNorm, Rope

SANDWICH = NAMES.but(
    attention_output_norm="post_attention_layernorm",
    feed_forward_norm="pre_feedforward_layernorm",
    feed_forward_output_norm="post_feedforward_layernorm",
)
QK_NORM = SANDWICH.but(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")
TINY_2 = TinyConfig(
    {
        **TINY.fields,
        "sliding_window": 24,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    {"layer types": {"layer_types": [FULL, FULL, WINDOWED]}},
)
SCALED = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
TINY_3 = TinyConfig(
    {**TINY.fields, "sliding_window": 24, "query_pre_attn_scalar": 20, "layer_types": [WINDOWED, WINDOWED, FULL]},
    {"scaled rope": {"rope_parameters": {FULL: SCALED, WINDOWED: {"rope_type": "default", "rope_theta": 300.0}}}},
)
BIASES = {"attention_bias": True, "hidden_act": "gelu_pytorch_tanh"}


@family("GemmaForCausalLM", names=NAMES, tiny=TinyConfig(TINY.fields, {"biases": BIASES}))
def gemma(config: HfConfig) -> ModelSpec:
    """Norms around one, gated by gelu, embeddings scaled; the activation's older name said gelu and meant its approximation."""
    norm = Norm.rms(config.number("rms_norm_eps", 1e-6), offset=1.0)
    name = config.name_of("hidden_activation", "hidden_act")
    function = activation(config, name, "gelu_pytorch_tanh")
    function = Activation.GELU_TANH if function is Activation.GELU else function
    feed_forward = Dense(config.integer("intermediate_size"), function, bias=False)
    scale = Embedding(scale=config.integer("hidden_size") ** 0.5)
    layer = LayerSpec(norm, grouped(config), norm, feed_forward)
    return decoder(config, layer, norm, is_tied=True, embedding=scale)


@family("Gemma2ForCausalLM", names=SANDWICH, tiny=TINY_2)
def gemma2(config: HfConfig) -> ModelSpec:
    """Norms in front of each part and behind it, softcaps, and a window in every other layer."""
    spec = gemma(config)
    norm = spec.final_norm
    spec = spec.with_layers(attention_output_norm=norm, feed_forward_output_norm=norm).with_attention(
        scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5, softcap=config.optional("attn_logit_softcapping")
    )
    kinds = windowed_layers(config, len(spec.layers), lambda index: index % 2 == 0)
    spec = spec.with_each_attention({"window": window(config) if windowed else None} for windowed in kinds)
    return replace(spec, head=Head(softcap=config.optional("final_logit_softcapping")))


@family("Gemma3ForCausalLM", names=QK_NORM, tiny=TINY_3)
def gemma3(config: HfConfig) -> ModelSpec:
    """Gemma 2's block with a norm on each head; windowed layers, five of six, turn by a base of their own."""
    spec = gemma2(config)
    pattern = config.integer("sliding_window_pattern", 6)
    kinds = windowed_layers(config, len(spec.layers), lambda index: (index + 1) % pattern != 0)
    own = {
        windowed: {"window": window(config) if windowed else None, "rope": layer_rope(config, spec, windowed=windowed)}
        for windowed in (True, False)
    }
    spec = spec.with_each_attention(own[windowed] for windowed in kinds)
    return spec.with_attention(qk_norm=None if spec.final_norm is None else QkNorm(spec.final_norm))


def layer_rope(config: HfConfig, spec: ModelSpec, *, windowed: bool) -> Rope:
    """Newer files have a section for each kind of layer, older ones `rope_local_base_freq` and a scaling for full layers."""
    head_dim = spec.layers[0].attention.head_dim
    sections = config.section("rope_parameters")
    section = None if sections is None else sections.section(WINDOWED if windowed else FULL)
    base = 10_000.0 if windowed else 1_000_000.0
    if section is not None:
        return rope_of(section, config, head_dim, base=base)
    if windowed:
        return Rope(config.number("rope_local_base_freq", base), head_dim)
    return rope_of(config.section("rope_scaling"), config, head_dim, base=base)
