"""Phi-3, Phi-3.5-mini and Phi-4: Llama's block with joined projections and LongRoPE. https://arxiv.org/abs/2404.14219"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import window
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec

JOINED = NAMES.but(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")
FACTORS = {
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.5, 1.7, 1.9, 2.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 9.0, 12.0],
}
SCALING = {"rope_type": "longrope", "rope_theta": 5000.0, **FACTORS}
TINY_PHI3 = TinyConfig(
    {**TINY.fields, "sliding_window": 24, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    {
        "longrope, beyond": {"hidden_size": 64, "original_max_position_embeddings": 48, "rope_parameters": SCALING},
        "longrope, within": {"hidden_size": 64, "original_max_position_embeddings": 256, "rope_parameters": SCALING},
    },
)


@family("Phi3ForCausalLM", names=JOINED, tiny=TINY_PHI3)
def phi3(config: HfConfig) -> ModelSpec:
    """Servers whose longest sequence is within the original context turn by the short factors, all others by the long ones."""
    return llama(config).with_attention(window=window(config))
