"""GPT-J: one norm for both parts, heads turned in neighbouring pairs. https://github.com/kingoflolz/mesh-transformer-jax"""

from ribbon_server.models.families.gpt2 import NAMES
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import GPT_SIZES, activation, decoder, whole_heads
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, Grouped, Head, LayerSpec, ModelSpec, Norm, Residual, Rope

NAMES_J = NAMES.but(
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    output="attn.out_proj",
    gate_up="mlp.fc_in",
    down="mlp.fc_out",
)
TINY = TinyConfig(
    {"vocab_size": 160, "n_embd": 64, "n_positions": 512, "n_layer": 3, "n_head": 4, "rotary_dim": 8, "n_inner": 96}
)


@family("GPTJForCausalLM", names=NAMES_J, tiny=TINY)
def gptj(config: HfConfig) -> ModelSpec:
    """Attention without biases and a plain feed-forward part with them, side by side."""
    norm = Norm.layer(config.number("layer_norm_epsilon", 1e-5))
    num_heads, hidden = config.integer("n_head"), config.integer("n_embd")
    head_dim = whole_heads(config, num_heads, "n_embd")
    rope = Rope(10000.0, config.integer("rotary_dim", 64), interleaved=True)
    attention = Grouped(num_heads, num_heads, head_dim, head_dim**-0.5, rope, qkv_bias=False, output_bias=False)
    function = activation(config, "activation_function", "gelu_new")
    feed_forward = Dense(config.integer("n_inner", 4 * hidden), function, bias=True, gated=False)
    layer = LayerSpec(norm, attention, None, feed_forward, Residual.PARALLEL)
    return decoder(config, layer, norm, is_tied=False, sizes=GPT_SIZES, head=Head(bias=True))
