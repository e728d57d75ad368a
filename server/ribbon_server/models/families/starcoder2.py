"""StarCoder2: Llama's attention in a window, layer norms, a plain feed-forward part. https://arxiv.org/abs/2402.19173"""

from ribbon_server.models.families.llama import NAMES, TINY, grouped
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation, decoder, window
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, LayerSpec, ModelSpec, Norm

NAMES_2 = NAMES.but(gate_up="mlp.c_fc", down="mlp.c_proj")
TINY_2 = TinyConfig({**TINY.fields, "sliding_window": 24}, {"without biases": {"use_bias": False}})


@family("Starcoder2ForCausalLM", names=NAMES_2, tiny=TINY_2)
def starcoder2(config: HfConfig) -> ModelSpec:
    """`use_bias` is for every linear layer."""
    norm = Norm.layer(config.number("norm_epsilon", 1e-5))
    bias = config.flag("use_bias", default=True)
    function = activation(config, "hidden_act", "gelu_pytorch_tanh")
    feed_forward = Dense(config.integer("intermediate_size"), function, bias, gated=False)
    spec = decoder(config, LayerSpec(norm, grouped(config), norm, feed_forward), norm, is_tied=True)
    return spec.with_attention(qkv_bias=bias, output_bias=bias, window=window(config))
