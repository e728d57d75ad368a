"""Arcee (AFM-4.5B): Llama's block with a plain feed-forward part of squared relu. https://huggingface.co/arcee-ai/AFM-4.5B"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, ModelSpec

BIASES = {"attention_bias": True, "mlp_bias": True}


@family("ArceeForCausalLM", names=NAMES.but(gate_up="mlp.up_proj"), tiny=TinyConfig(TINY.fields, {"biases": BIASES}))
def arcee(config: HfConfig) -> ModelSpec:
    """No gate: down(relu(up(x))^2)."""
    function = activation(config, "hidden_act", "relu2")
    bias = config.flag("mlp_bias", default=False)
    return llama(config).with_layers(
        feed_forward=Dense(config.integer("intermediate_size"), function, bias, gated=False)
    )
