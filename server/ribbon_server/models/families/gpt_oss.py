"""gpt-oss: attention sinks, a window in every other layer, experts with clamped gates. https://arxiv.org/abs/2508.10925"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import FULL, WINDOWED, window, windowed_layers
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.names import Fused, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ClampedGate, Experts, ModelSpec, Router

NAMES_OSS = NAMES.but(
    sinks=Tensors(("self_attn.sinks",), weight=""),
    router="mlp.router",
    experts_gate_up=Tensors(
        ("mlp.experts.gate_up_proj",), Fused.ALTERNATING, is_transposed=True, weight="", bias="_bias"
    ),
    experts_down=Tensors(("mlp.experts.down_proj",), is_transposed=True, weight="", bias="_bias"),
)
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
TINY_OSS = TinyConfig(
    {
        **TINY.fields,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 24,
        "swiglu_limit": 1.0,
        "rope_parameters": YARN,
    },
    {"layer types": {"layer_types": [FULL, WINDOWED, FULL], "attention_bias": False}},
)


@family("GptOssForCausalLM", names=NAMES_OSS, tiny=TINY_OSS)
def gpt_oss(config: HfConfig) -> ModelSpec:
    """Experts in bfloat16, or in MXFP4, which is decoded as it is read."""
    spec = llama(config)
    bias = config.flag("attention_bias", default=True)
    turned = rope(config, spec.layers[0].attention.head_dim, base=150000.0)
    spec = spec.with_attention(qkv_bias=bias, output_bias=bias, sinks=True, rope=turned)
    kinds = windowed_layers(config, len(spec.layers), lambda index: index % 2 == 0)
    spec = spec.with_each_attention({"window": window(config) if windowed else None} for windowed in kinds)
    experts = Experts(
        num_experts=config.integer(config.name_of("num_local_experts", "num_experts")),
        intermediate=config.integer("intermediate_size"),
        activation=ClampedGate(config.number("swiglu_alpha", 1.702), config.number("swiglu_limit", 7.0)),
        router=Router(config.integer("num_experts_per_tok", 4), is_renormalized=True, bias=True),
        bias=True,
    )
    return spec.with_layers(feed_forward=experts)
