"""Qwen2 and Qwen3, dense: Llama's block with biases, or with a norm on each head. https://arxiv.org/abs/2505.09388"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import FULL, WINDOWED, window, windowed_layers
from ribbon_server.models.names import NameTable
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec, Norm, QkNorm

WINDOWS = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
MIXED = {**WINDOWS, "layer_types": [FULL, WINDOWED, FULL]}
TINY_QWEN = TinyConfig(TINY.fields, {"windows": WINDOWS, "layer types": MIXED, "tied": {"tie_word_embeddings": True}})
QK_NORM: NameTable = NAMES.but(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")


@family("Qwen2ForCausalLM", names=NAMES, tiny=TINY_QWEN)
def qwen2(config: HfConfig) -> ModelSpec:
    """Biases on queries, keys and values alone; the upper layers may have a window."""
    return in_windows(llama(config).with_attention(qkv_bias=True), config)


@family("Qwen3ForCausalLM", names=QK_NORM, tiny=TINY_QWEN)
def qwen3(config: HfConfig) -> ModelSpec:
    """A norm on each query and key head instead of the biases."""
    norm = QkNorm(Norm.rms(config.number("rms_norm_eps", 1e-6)))
    return in_windows(llama(config).with_attention(qk_norm=norm), config)


def in_windows(spec: ModelSpec, config: HfConfig) -> ModelSpec:
    """`use_sliding_window` gives a window to layers from `max_window_layers` on, or to those of `layer_types`."""
    if not config.flag("use_sliding_window", default=False):
        return spec
    first = config.whole("max_window_layers", 28)
    kinds = windowed_layers(config, len(spec.layers), lambda index: index >= first)
    return spec.with_each_attention({"window": window(config) if windowed else None} for windowed in kinds)
