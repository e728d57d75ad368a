"""Granite 3: Llama's block with four multipliers. https://huggingface.co/ibm-granite/granite-3.0-8b-instruct"""

from dataclasses import replace

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Embedding, Head, ModelSpec

MULTIPLIERS = {
    "embedding_multiplier": 1.7,
    "logits_scaling": 0.7,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.4,
}


@family("GraniteForCausalLM", names=NAMES, tiny=TinyConfig({**TINY.fields, **MULTIPLIERS}))
def granite(config: HfConfig) -> ModelSpec:
    """Of the embedding, of what each part adds, of the scores, and a divisor of the logits."""
    spec = llama(config).with_attention(scale=config.number("attention_multiplier", 1.0))
    return replace(
        spec.with_layers(residual_multiplier=config.number("residual_multiplier", 1.0)),
        embedding=Embedding(scale=config.number("embedding_multiplier", 1.0)),
        head=Head(scale=1.0 / config.number("logits_scaling", 1.0)),
    )
