"""MPT: ALiBi, joined projections without biases, values cut to a range. https://github.com/mosaicml/llm-foundry"""

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import Sizes, decoder, whole_heads
from ribbon_server.models.names import NameTable
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Activation, Alibi, Dense, Grouped, LayerSpec, ModelSpec, Norm

NAMES = NameTable(
    stem="transformer.blocks.{layer}.",
    layer={
        "attention_norm": "norm_1",
        "qkv": "attn.Wqkv",
        "output": "attn.out_proj",
        "feed_forward_norm": "norm_2",
        "gate_up": "ffn.up_proj",
        "down": "ffn.down_proj",
    },
    outer={"embedding": "transformer.wte", "final_norm": "transformer.norm_f", "head": "lm_head"},
    older=(("transformer.", ""),),
)
SIZES = Sizes("d_model", "max_seq_len", "n_layers", "n_heads")
TINY = TinyConfig(
    {"vocab_size": 160, "d_model": 64, "max_seq_len": 256, "n_layers": 3, "n_heads": 4},
    {
        "clipped": {"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.1}},
        "six heads": {"d_model": 96, "n_heads": 6},
    },
)


@family("MptForCausalLM", "MPTForCausalLM", names=NAMES, tiny=TINY)
def mpt(config: HfConfig) -> ModelSpec:
    """Pre-norm blocks; `attn_config` holds what is said of attention. What no published model has is refused."""
    own = config.section("attn_config") or HfConfig({}, "config.json: attn_config")
    if not own.flag("alibi", default=True):
        raise own.refuse("alibi", "true")
    if own.flag("qk_ln", default=False):
        raise own.refuse("qk_ln", "false")
    if not config.flag("no_bias", default=True):
        raise config.refuse("no_bias", "true")
    norm = Norm.layer(config.number("layer_norm_epsilon", 1e-5), bias=False)
    num_heads = config.integer("n_heads")
    head_dim = whole_heads(config, num_heads, "d_model")
    attention = Grouped(
        num_heads,
        num_heads,
        head_dim,
        own.number("softmax_scale", head_dim**-0.5),
        None,
        qkv_bias=False,
        output_bias=False,
        alibi=Alibi(own.number("alibi_bias_max", 8.0)),
        clip=own.optional("clip_qkv"),
    )
    feed_forward = Dense(4 * config.integer("d_model"), Activation.GELU, bias=False, gated=False)
    return decoder(config, LayerSpec(norm, attention, norm, feed_forward), norm, is_tied=True, sizes=SIZES)
