"""Mistral and Ministral: Llama's block, whose queries see a window. https://arxiv.org/abs/2310.06825"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import FULL, WINDOWED, window, windowed_layers
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec

TINY_WINDOW = TinyConfig({**TINY.fields, "sliding_window": 24})
TINY_MIXED = TinyConfig({**TINY_WINDOW.fields, "layer_types": [WINDOWED, FULL, WINDOWED]})


@family("MistralForCausalLM", names=NAMES, tiny=TINY_WINDOW)
def mistral(config: HfConfig) -> ModelSpec:
    """`sliding_window` is that of every layer; null means that all see everything."""
    return llama(config).with_attention(window=window(config))


@family("MinistralForCausalLM", names=NAMES, tiny=TINY_MIXED)
def ministral(config: HfConfig) -> ModelSpec:
    """`layer_types` says which layers have the window."""
    spec = llama(config)
    kinds = windowed_layers(config, len(spec.layers), lambda _: True)
    return spec.with_each_attention({"window": window(config) if windowed else None} for windowed in kinds)
