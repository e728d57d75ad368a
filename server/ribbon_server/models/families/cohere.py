"""Command R, R+ and R7B (Cohere, Cohere 2): one norm for both parts, layer norms without biases, scaled logits.

https://huggingface.co/CohereForAI/c4ai-command-r-v01
"""

from ribbon_server.models.families.llama import NAMES, TINY, gated, grouped
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import FULL, WINDOWED, decoder, window, windowed_layers
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.names import Fused, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Head, LayerSpec, ModelSpec, Norm, NormScope, QkNorm, Residual

EACH_HEAD = NAMES.but(
    q_norm=Tensors(("self_attn.q_norm",), Fused.STACKED), k_norm=Tensors(("self_attn.k_norm",), Fused.STACKED)
)
TINY_1 = TinyConfig(
    {**TINY.fields, "hidden_size": 64, "logit_scale": 0.25}, {"normed": {"use_qk_norm": True, "attention_bias": True}}
)
TINY_2 = TinyConfig(
    {**TINY_1.fields, "sliding_window": 24, "layer_types": [WINDOWED, FULL, WINDOWED]},
    {"pattern": {"layer_types": None, "sliding_window_pattern": 2}},
)


@family("CohereForCausalLM", names=EACH_HEAD, tiny=TINY_1)
def cohere(config: HfConfig) -> ModelSpec:
    """Heads are turned in neighbouring pairs; larger models norm each head by a weight of its own."""
    norm = Norm.layer(config.number("layer_norm_eps", 1e-5), bias=False)
    layer = LayerSpec(norm, grouped(config), None, gated(config), Residual.PARALLEL)
    head = Head(scale=config.number("logit_scale", 0.0625))
    spec = decoder(config, layer, norm, is_tied=True, head=head)
    turned = rope(config, layer.attention.head_dim, interleaved=True)
    is_normed = config.flag("use_qk_norm", default=False)
    return spec.with_attention(rope=turned, qk_norm=QkNorm(norm, NormScope.EACH_HEAD) if is_normed else None)


@family("Cohere2ForCausalLM", names=EACH_HEAD, tiny=TINY_2)
def cohere2(config: HfConfig) -> ModelSpec:
    """Layers with a window are turned, those that see everything have no positions at all."""
    spec = cohere(config)
    pattern = config.integer("sliding_window_pattern", 4)
    kinds = windowed_layers(config, len(spec.layers), lambda index: (index + 1) % pattern != 0)
    full = {"window": None, "rope": None}
    return spec.with_each_attention({"window": window(config)} if windowed else full for windowed in kinds)
