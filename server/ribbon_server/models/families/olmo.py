"""OLMo 2: Llama's parts with norms behind them, and over all query heads together. https://arxiv.org/abs/2501.00656"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec, Norm, NormScope, QkNorm

BEHIND = NAMES.but(
    attention_output_norm="post_attention_layernorm",
    feed_forward_output_norm="post_feedforward_layernorm",
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
)


@family("Olmo2ForCausalLM", names=BEHIND, tiny=TinyConfig(TINY.fields, {"biases": {"attention_bias": True}}))
def olmo2(config: HfConfig) -> ModelSpec:
    """Each part sees the stream as it is; its result is normed before it is added."""
    norm = Norm.rms(config.number("rms_norm_eps", 1e-5))
    spec = llama(config).with_attention(qk_norm=QkNorm(norm, NormScope.ALL_HEADS))
    return spec.with_layers(
        attention_norm=None, attention_output_norm=norm, feed_forward_norm=None, feed_forward_output_norm=norm
    )
