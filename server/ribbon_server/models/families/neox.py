"""GPT-NeoX, Pythia, StableLM-alpha: two norms side by side, heads stored one by one. https://arxiv.org/abs/2204.06745"""

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation, decoder, whole_heads
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.names import Fused, NameTable, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, Grouped, LayerSpec, ModelSpec, Norm, Residual

NAMES = NameTable(
    stem="gpt_neox.layers.{layer}.",
    layer={
        "attention_norm": "input_layernorm",
        "qkv": Tensors(("attention.query_key_value",), Fused.GROUPED),
        "output": "attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "gate_up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
    outer={"embedding": "gpt_neox.embed_in", "final_norm": "gpt_neox.final_layer_norm", "head": "embed_out"},
    ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
)
TINY = TinyConfig(
    {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    {"in turn": {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}},
)


@family("GPTNeoXForCausalLM", names=NAMES, tiny=TINY)
def neox(config: HfConfig) -> ModelSpec:
    """A quarter of each head is turned, or `rotary_pct` of it."""
    norm = Norm.layer(config.number("layer_norm_eps", 1e-5))
    num_heads = config.integer("num_attention_heads")
    head_dim = whole_heads(config, num_heads)
    turned = rope(
        config, head_dim, base=config.number("rotary_emb_base", 10000.0), share=config.number("rotary_pct", 0.25)
    )
    bias = config.flag("attention_bias", default=True)
    attention = Grouped(num_heads, num_heads, head_dim, head_dim**-0.5, turned, qkv_bias=bias, output_bias=bias)
    function = activation(config, "hidden_act", "gelu")
    feed_forward = Dense(config.integer("intermediate_size"), function, bias=True, gated=False)
    is_parallel = config.flag("use_parallel_residual", default=True)
    residual = Residual.PARALLEL if is_parallel else Residual.SEQUENTIAL
    return decoder(config, LayerSpec(norm, attention, norm, feed_forward, residual), norm, is_tied=False)
