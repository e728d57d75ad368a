"""StableLM 2 and 3B: Llama's parts between layer norms. https://arxiv.org/abs/2402.17834"""

from ribbon_server.models.families.llama import NAMES, gated
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import decoder, heads, whole_heads
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Grouped, LayerSpec, ModelSpec, Norm, NormScope, QkNorm, Residual

NAMES_STABLE = NAMES.but(q_norm="self_attn.q_layernorm.norms.{head}", k_norm="self_attn.k_layernorm.norms.{head}")
TINY = TinyConfig(
    {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
    {"side by side": {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}},
)


@family("StableLmForCausalLM", "StableLMEpochForCausalLM", names=NAMES_STABLE, tiny=TINY)
def stablelm(config: HfConfig) -> ModelSpec:
    """A quarter of each head is turned; larger ones norm each head by a weight of its own and share one norm of the stream."""
    eps = config.number(config.name_of("layer_norm_eps", "norm_eps"), 1e-5)
    norm = Norm.layer(eps)
    num_heads, kv_heads = heads(config)
    head_dim = whole_heads(config, num_heads)
    head_norm = QkNorm(Norm.layer(eps, bias=False), NormScope.EACH_HEAD)
    attention = Grouped(
        num_heads,
        kv_heads,
        head_dim,
        head_dim**-0.5,
        rope(config, head_dim, share=config.number("rope_pct", 0.25)),
        qkv_bias=config.flag("use_qkv_bias", default=False),
        output_bias=False,
        qk_norm=head_norm if config.flag("qk_layernorm", default=False) else None,
    )
    if config.flag("use_parallel_residual", default=False):
        layer = LayerSpec(norm, attention, None, gated(config), Residual.PARALLEL)
    else:
        layer = LayerSpec(norm, attention, norm, gated(config))
    return decoder(config, layer, norm, is_tied=False)
