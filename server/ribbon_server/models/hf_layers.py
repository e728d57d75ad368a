"""Fields that Hugging Face configurations of many families share: activations, heads, which layers have a window."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.spec import Activation, LayerSpec, ModelSpec, Norm

WINDOWED, FULL = "sliding_attention", "full_attention"

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "relu2": Activation.RELU_SQUARED,
}


def activation(config: HfConfig, name: str, default: str) -> Activation:
    """The function that field `name` names."""
    value = config.text(name, default)
    if value not in ACTIVATIONS:
        raise config.refuse(name, f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def heads(config: HfConfig, name: str = "num_attention_heads", kv_name: str = "num_key_value_heads") -> tuple[int, int]:
    """Query heads, and the key-value heads that share them out evenly; as many where the field is absent."""
    count = config.integer(name)
    kv_count = config.integer(kv_name, count)
    if count % kv_count != 0:
        raise ModelNotSupported(f"config.json: {count} attention heads cannot share {kv_count} key-value heads evenly")
    return count, kv_count


def whole_heads(config: HfConfig, num_heads: int, hidden_name: str = "hidden_size") -> int:
    """Elements of a head where heads divide the hidden width."""
    hidden = config.integer(hidden_name)
    if hidden % num_heads != 0:
        raise ModelNotSupported(f"config.json: `{hidden_name}` is {hidden}; {num_heads} heads cannot share it evenly")
    return hidden // num_heads


def windowed_layers(config: HfConfig, count: int, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Which layers have the window: as `layer_types` says, else as `default` says of each index."""
    kinds = config.texts("layer_types")
    if not kinds:
        return tuple(default(index) for index in range(count))
    if len(kinds) != count or not set(kinds) <= {WINDOWED, FULL}:
        raise ModelNotSupported(
            f"config.json: `layer_types` is {list(kinds)}; it must name {WINDOWED} or {FULL} for each of {count} layers"
        )
    return tuple(kind == WINDOWED for kind in kinds)


def window(config: HfConfig) -> int | None:
    """`sliding_window`; null is none."""
    return config.integer("sliding_window") if "sliding_window" in config else None


@dataclass(frozen=True)
class Sizes:
    """What a family's configurations call the sizes of a decoder."""

    hidden: str = "hidden_size"
    positions: str = "max_position_embeddings"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"


HF_SIZES = Sizes()
GPT_SIZES = Sizes("n_embd", "n_positions", "n_layer", "n_head")


def decoder(
    config: HfConfig, layer: LayerSpec, final_norm: Norm | None, *, is_tied: bool, sizes: Sizes = HF_SIZES, **outer: Any
) -> ModelSpec:
    """A model of equal layers. is_tied is the architecture's default; outer: further fields of ModelSpec."""
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=config.integer("vocab_size"),
        hidden=config.integer(sizes.hidden),
        max_positions=config.integer(sizes.positions, 2048),
        layers=(layer,) * config.integer(sizes.layers),
        final_norm=final_norm,
        tied_embeddings=config.flag("tie_word_embeddings", default=is_tied),
        **outer,
    )
