"""T5, T5 1.1, FLAN-T5, mT5 and mT0: an encoder and a decoder, each with a relative bias. https://arxiv.org/abs/1910.10683"""

from dataclasses import replace

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import ACTIVATIONS
from ribbon_server.models.names import Names, NameTable
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Dense, Encoder, Grouped, Head, LayerSpec, ModelSpec, Norm, RelativeBias

SELF, CROSS = "layer.0.SelfAttention", "layer.1.EncDecAttention"
ATTENTION: dict[str, Names] = {
    "attention_norm": "layer.0.layer_norm",
    "qkv": (f"{SELF}.q", f"{SELF}.k", f"{SELF}.v"),
    "output": f"{SELF}.o",
}


def names(side: str, feed_forward: str) -> NameTable:
    """Of the encoder or the decoder, whose feed-forward part is number `feed_forward` of a block."""
    dense = f"layer.{feed_forward}.DenseReluDense"
    return NameTable(
        stem=f"{side}.block.{{layer}}.",
        layer={
            **ATTENTION,
            "feed_forward_norm": f"layer.{feed_forward}.layer_norm",
            "gate_up": (f"{dense}.wi_0", f"{dense}.wi_1"),
            "gate_up:1": f"{dense}.wi",
            "down": f"{dense}.wo",
        },
        outer={
            "distances": f"{side}.block.0.{SELF}.relative_attention_bias",
            "final_norm": f"{side}.final_layer_norm",
        },
        encoder=None if side == "encoder" else names("encoder", "1"),
        ignored=(".embed_tokens.weight", f"{CROSS}.relative_attention_bias.weight"),
        outer_instead=({"head": "shared"},),
    )


NAMES = (
    names("decoder", "2")
    .but(
        cross_norm="layer.1.layer_norm",
        cross_query=f"{CROSS}.q",
        cross_kv=(f"{CROSS}.k", f"{CROSS}.v"),
        cross_output=f"{CROSS}.o",
    )
    .but_outer(embedding="shared", head="lm_head")
)
TINY = {
    "vocab_size": 160,
    "d_model": 24,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 24,
}
UNTIED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@family(
    "T5ForConditionalGeneration", names=NAMES, tiny=TinyConfig(TINY, {"1.1": {**UNTIED, "layer_norm_epsilon": 1e-3}})
)
def t5(config: HfConfig) -> ModelSpec:
    """The first version's head is its embedding, behind a factor; that of 1.1 is neither tied nor scaled."""
    is_tied = config.flag("tie_word_embeddings", default=True)
    is_first = config.flag("scale_decoder_outputs", default=is_tied)  # newer configurations say that all are tied
    scale = config.integer("d_model") ** -0.5 if is_first else 1.0
    return two_stacks(config, "relu", is_tied=is_first, head=Head(scale=scale))


@family(
    "MT5ForConditionalGeneration",
    names=NAMES,
    tiny=TinyConfig({**TINY, **UNTIED}, {"tied": {"tie_word_embeddings": True}}),
)
def mt5(config: HfConfig) -> ModelSpec:
    """As 1.1; where the checkpoint has no head, that is the embedding."""
    return two_stacks(config, "gated-gelu", is_tied=False, head=Head())


def two_stacks(config: HfConfig, function: str, *, is_tied: bool, head: Head) -> ModelSpec:
    """Both stacks; `function` is the architecture's default."""
    norm = Norm.rms(config.number("layer_norm_epsilon", 1e-6))
    num_heads = config.integer("num_heads")
    # Scores are not scaled: the weights were drawn so.
    attention = Grouped(num_heads, num_heads, config.integer("d_kv"), 1.0, None, qkv_bias=False, output_bias=False)
    layer = LayerSpec(norm, attention, norm, feed_forward(config, function))
    buckets = config.integer("relative_attention_num_buckets", 32)
    longest = config.integer("relative_attention_max_distance", 128)
    if buckets % 4 or longest <= buckets:
        raise config.refuse("relative_attention_num_buckets", f"a multiple of 4 below the largest distance, {longest}")
    bias, layers = RelativeBias(buckets, longest), config.integer("num_layers")
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=config.integer("vocab_size"),
        hidden=config.integer("d_model"),
        # There is no limit; prompts and answers each as long as those of the training.
        max_positions=2 * config.integer("n_positions", 1024),
        layers=(replace(layer, cross_norm=norm, cross=attention),) * config.integer("num_decoder_layers", layers),
        final_norm=norm,
        tied_embeddings=is_tied,
        head=head,
        relative_bias=bias,
        encoder=Encoder((layer,) * layers, norm, bias),
    )


def feed_forward(config: HfConfig, default: str) -> Dense:
    """`feed_forward_proj`: a function, with `gated-` in front or not."""
    kind, _, function = config.text("feed_forward_proj", default).rpartition("-")
    if kind == "gated" and function == "gelu":
        function = "gelu_new"  # as the weights were trained, whatever the name says
    if kind not in ("", "gated") or function not in ACTIVATIONS:
        raise config.refuse("feed_forward_proj", f"one of {', '.join(ACTIVATIONS)}, with `gated-` in front or not")
    return Dense(config.integer("d_ff"), ACTIVATIONS[function], bias=False, gated=kind == "gated")
