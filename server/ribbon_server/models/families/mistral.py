"""Mistral and Ministral: Llama's block, whose queries see a window. https://arxiv.org/abs/2310.06825"""

from dataclasses import replace

from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import LayerSpec, ModelSpec

WINDOWED, FULL = "sliding_attention", "full_attention"
TINY_WINDOW = TinyConfig({**TINY.fields, "sliding_window": 24})
TINY_MIXED = TinyConfig({**TINY_WINDOW.fields, "layer_types": [WINDOWED, FULL, WINDOWED]})


@family("MistralForCausalLM", names=NAMES, tiny=TINY_WINDOW)
def mistral(config: HfConfig) -> ModelSpec:
    """`sliding_window` is that of every layer; null means that all see everything."""
    spec = llama(config)
    window = config.integer("sliding_window") if "sliding_window" in config else None
    return replace(spec, layers=tuple(_seeing(layer, window) for layer in spec.layers))


@family("MinistralForCausalLM", names=NAMES, tiny=TINY_MIXED)
def ministral(config: HfConfig) -> ModelSpec:
    """`layer_types` says which layers have the window."""
    spec = mistral(config)
    kinds = config.texts("layer_types")
    if not kinds:
        return spec
    if len(kinds) != len(spec.layers) or not set(kinds) <= {WINDOWED, FULL}:
        raise ModelNotSupported(
            f"config.json: `layer_types` is {list(kinds)}; it must name {WINDOWED} or {FULL} for each of {len(spec.layers)} layers"
        )
    layers = zip(spec.layers, kinds, strict=True)
    return replace(spec, layers=tuple(layer if kind == WINDOWED else _seeing(layer, None) for layer, kind in layers))


def _seeing(layer: LayerSpec, window: int | None) -> LayerSpec:
    return replace(layer, attention=replace(layer.attention, window=window))
