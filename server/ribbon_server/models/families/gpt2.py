"""GPT-2: learned positions, weights stored transposed. Radford et al. 2019, "Language models are unsupervised multitask learners" """

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import GPT_SIZES, activation, decoder, whole_heads
from ribbon_server.models.names import NameTable, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, Embedding, Grouped, LayerSpec, LearnedPositions, ModelSpec, Norm


def transposed(name: str) -> Tensors:
    """A matrix stored [in, out]."""
    return Tensors((name,), is_transposed=True)


NAMES = NameTable(
    stem="transformer.h.{layer}.",
    layer={
        "attention_norm": "ln_1",
        "qkv": transposed("attn.c_attn"),
        "output": transposed("attn.c_proj"),
        "feed_forward_norm": "ln_2",
        "gate_up": transposed("mlp.c_fc"),
        "down": transposed("mlp.c_proj"),
    },
    outer={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
    ignored=(".attn.bias", ".attn.masked_bias"),
    older=(("transformer.", ""),),
)
TINY = TinyConfig(
    {"vocab_size": 160, "n_embd": 64, "n_positions": 128, "n_layer": 3, "n_head": 4},
    {
        "inner width": {"n_inner": 96, "scale_attn_by_inverse_layer_idx": True},
        "unscaled, untied": {"scale_attn_weights": False, "tie_word_embeddings": False, "activation_function": "relu"},
    },
)


@family("GPT2LMHeadModel", names=NAMES, tiny=TINY)
def gpt2(config: HfConfig) -> ModelSpec:
    """Pre-norm blocks; scores may be divided by the layer's number, too."""
    spec = gpt_block(config, config.integer("n_head"), "gelu_new")
    if not config.flag("scale_attn_by_inverse_layer_idx", default=False):
        return spec
    scales = (layer.attention.scale / (index + 1) for index, layer in enumerate(spec.layers))
    return spec.with_each_attention({"scale": scale} for scale in scales)


def gpt_block(config: HfConfig, kv_heads: int, function: str) -> ModelSpec:
    """GPT-2's decoder, whose heads may share keys and values."""
    norm = Norm.layer(config.number("layer_norm_epsilon", 1e-5))
    num_heads, hidden = config.integer("n_head"), config.integer("n_embd")
    head_dim = whole_heads(config, num_heads, "n_embd")
    scale = head_dim**-0.5 if config.flag("scale_attn_weights", default=True) else 1.0
    attention = Grouped(num_heads, kv_heads, head_dim, scale, None, qkv_bias=True, output_bias=True)
    feed_forward = Dense(
        config.integer("n_inner", 4 * hidden),
        activation(config, "activation_function", function),
        bias=True,
        gated=False,
    )
    layer = LayerSpec(norm, attention, norm, feed_forward)
    return decoder(
        config, layer, norm, is_tied=True, sizes=GPT_SIZES, embedding=Embedding(positions=LearnedPositions())
    )
