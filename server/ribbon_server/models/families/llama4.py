"""Llama 4, text alone: most layers attend in chunks of positions, the others know no positions; experts beside a shared one."""

from collections.abc import Sequence
from dataclasses import replace

from ribbon_server.models.families.llama import NAMES, TINY, gated, grouped, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_rope import rope
from ribbon_server.models.names import Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import (
    Dense,
    Experts,
    Grouped,
    ModelSpec,
    Norm,
    NormKind,
    QkNorm,
    Router,
    RouterScore,
    Temperature,
)

NAMES_4 = NAMES.but(
    gate_up=("feed_forward.gate_proj", "feed_forward.up_proj"),
    down="feed_forward.down_proj",
    router="feed_forward.router",
    experts_gate_up=Tensors(("feed_forward.experts.gate_up_proj",), is_transposed=True, weight=""),
    experts_down=Tensors(("feed_forward.experts.down_proj",), is_transposed=True, weight=""),
    shared_gate_up=("feed_forward.shared_expert.gate_proj", "feed_forward.shared_expert.up_proj"),
    shared_down="feed_forward.shared_expert.down_proj",
)
IMAGES = ("vision_model.", "multi_modal_projector.")
NAMES_WITH_IMAGES = replace(NAMES_4.renamed("", "language_model."), ignored_parts=IMAGES)
TINY_4 = TinyConfig(
    {
        **TINY.fields,
        "intermediate_size_mlp": 56,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_layers": [0, 2],
        "no_rope_layers": [1, 0, 1],
        "attention_chunk_size": 24,
        "floor_scale": 8,
        "attn_scale": 0.6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    {
        "one chunk, biases": {"attention_chunk_size": 256, "attention_bias": True, "use_qk_norm": False},
        "by intervals": {"no_rope_layers": None, "no_rope_layer_interval": 2, "moe_layers": None},
    },
)
VISION = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 28},
    **{"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
}
TINY_WITH_IMAGES = TinyConfig({"text_config": TINY_4.fields, "vision_config": VISION})


@family("Llama4ForCausalLM", names=NAMES_4, tiny=TINY_4)
@family("Llama4ForConditionalGeneration", names=NAMES_WITH_IMAGES, tiny=TINY_WITH_IMAGES)
def llama4(whole: HfConfig) -> ModelSpec:
    """`intermediate_size` is that of experts, `intermediate_size_mlp` that of layers without any."""
    config = whole.part("text_config")
    spec = llama(config)
    attention, dense = grouped(config), gated(config)
    chunked, unturned = with_positions(config, attention), without_positions(config, attention)
    wide = replace(dense, intermediate=config.integer("intermediate_size_mlp", 16384))
    sparse = experts(config, dense)
    turned, chosen = turned_layers(config, len(spec.layers)), expert_layers(config, len(spec.layers))
    layers = (
        replace(
            layer,
            attention=chunked if turned[index] else unturned,
            feed_forward=sparse if index in chosen else wide,
        )
        for index, layer in enumerate(spec.layers)
    )
    return replace(spec, layers=tuple(layers))


def turned_layers(config: HfConfig, count: int) -> Sequence[int]:
    """Not 0 for each layer that knows positions: as `no_rope_layers` says, else all but every n-th."""
    interval = config.integer("no_rope_layer_interval", 4)
    turned = config.token_ids("no_rope_layers") or [(index + 1) % interval for index in range(count)]
    if len(turned) < count:
        raise config.refuse("no_rope_layers", f"a 0 or 1 for each of {count} layers")
    return turned


def expert_layers(config: HfConfig, count: int) -> Sequence[int]:
    """Those with experts: as `moe_layers` says, else every n-th."""
    step = config.integer("interleave_moe_layer_step", 1)
    return config.token_ids("moe_layers") or range(step - 1, count, step)


def with_positions(config: HfConfig, attention: Grouped) -> Grouped:
    """In chunks, and normed: by length alone, which no turning changes."""
    norm = Norm(NormKind.RMS, config.number("rms_norm_eps", 1e-5), weighted=False)
    return replace(
        attention,
        rope=rope(config, attention.head_dim, interleaved=True, base=500000.0),
        chunk=config.integer("attention_chunk_size") if "attention_chunk_size" in config else None,
        qk_norm=QkNorm(norm) if config.flag("use_qk_norm", default=True) else None,
    )


def without_positions(config: HfConfig, attention: Grouped) -> Grouped:
    """Over everything, sharper with distance from the start."""
    is_tuned = config.switch("attn_temperature_tuning", default=True)
    tuning = Temperature(config.number("attn_scale", 0.1), config.integer("floor_scale", 8192))
    return replace(attention, rope=None, temperature=tuning if is_tuned else None)


def experts(config: HfConfig, shared: Dense) -> Experts:
    """Beside one that sees every token."""
    router = Router(config.integer("num_experts_per_tok", 1), RouterScore.SIGMOID, scales_input=True)
    count = config.integer("num_local_experts", 16)
    return Experts(count, shared.intermediate, shared.activation, router, shared=shared)
