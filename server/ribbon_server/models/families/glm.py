"""GLM-4 of both generations: Llama's parts, half of each head turned in neighbouring pairs. https://arxiv.org/abs/2406.12793"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec

JOINED = NAMES.but(gate_up="mlp.gate_up_proj")
SANDWICH = JOINED.but(attention_output_norm="post_self_attn_layernorm", feed_forward_output_norm="post_mlp_layernorm")
TINY_GLM = TinyConfig(TINY.fields, {"without biases": {"attention_bias": False, "tie_word_embeddings": True}})


@family("GlmForCausalLM", names=JOINED, tiny=TINY_GLM)
def glm(config: HfConfig) -> ModelSpec:
    """The files of early 2024: norms in front of each part."""
    spec = llama(config)
    bias = config.flag("attention_bias", default=True)
    turned = rope(config, spec.layers[0].attention.head_dim, interleaved=True, share=0.5)
    return spec.with_attention(rope=turned, qkv_bias=bias, output_bias=False)


@family("Glm4ForCausalLM", names=SANDWICH, tiny=TINY_GLM)
def glm4(config: HfConfig) -> ModelSpec:
    """The 0414 models: norms in front of each part and behind it."""
    spec = glm(config)
    return spec.with_layers(attention_output_norm=spec.final_norm, feed_forward_output_norm=spec.final_norm)
