"""DeepSeek V2 and V3: latent attention, many narrow experts beside shared ones. https://arxiv.org/abs/2412.19437"""

from dataclasses import replace

from ribbon_server.models.families.llama import NAMES, TINY, gated
from ribbon_server.models.families.qwen_moe import with_experts
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import decoder
from ribbon_server.models.hf_rope import rope, yarn_temperature
from ribbon_server.models.names import Tensors
from ribbon_server.models.registry import Fields, TinyConfig, family
from ribbon_server.models.spec import (
    ExpertGroups,
    Experts,
    Latent,
    LayerSpec,
    ModelSpec,
    Norm,
    Router,
    RouterScore,
    YarnRope,
)

LATENT = with_experts(NAMES).but(
    query_down="self_attn.q_a_proj",
    query_norm="self_attn.q_a_layernorm",
    query_up="self_attn.q_b_proj",
    kv_down="self_attn.kv_a_proj_with_mqa",
    kv_norm="self_attn.kv_a_layernorm",
    kv_up="self_attn.kv_b_proj",
    router_correction=Tensors(("mlp.gate.e_score_correction_bias",), weight=""),
    shared_gate_up=("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
    shared_down="mlp.shared_experts.down_proj",
)
LATENT = replace(LATENT, instead=({"query_up": "self_attn.q_proj"},), ignores_further_layers=True)

YARN = {
    **{"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 8000},
    **{"beta_fast": 48.0, "mscale": 1.4, "mscale_all_dim": 0.7},
}
FIELDS: dict[str, object] = {
    **{name: value for name, value in TINY.fields.items() if name != "head_dim"},
    "num_key_value_heads": 4,
    "q_lora_rank": 28,
    "kv_lora_rank": 24,
    **{"qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 20},
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "rope_parameters": YARN,
}
GROUPS = {"n_group": 4, "topk_group": 2}
VARIANTS: dict[str, Fields] = {
    "biases, queries straight": {"q_lora_rank": None, "attention_bias": True},
    "untruncated": {"rope_parameters": {**YARN, "truncate": False}},
    "unscaled rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
}
GREEDY: dict[str, Fields] = {"one group": {"topk_method": "greedy"}, "biases": {"mlp_bias": True}}
TINY_2 = TinyConfig({**FIELDS, **GROUPS, "topk_method": "group_limited_greedy"}, {**VARIANTS, **GREEDY})
UNLIKE: dict[str, Fields] = {"not renormalized": {"norm_topk_prob": False}, "halves": {"rope_interleave": False}}
TINY_3 = TinyConfig({**FIELDS, **GROUPS}, {**VARIANTS, **UNLIKE})


@family("DeepseekV2ForCausalLM", names=LATENT, tiny=TINY_2)
def deepseek_v2(config: HfConfig) -> ModelSpec:
    """Experts by softmax; a group counts as much as its best one."""
    if config.flag("norm_topk_prob", default=False):
        raise config.refuse("norm_topk_prob", "false")
    limited = one_of(config, "topk_method", "greedy", "group_limited_greedy") == "group_limited_greedy"
    router = Router(
        config.integer("num_experts_per_tok"),
        groups=groups(config, counted=1) if limited else None,
        scale=config.number("routed_scaling_factor", 1.0),
    )
    return latent_decoder(config, router, first_expert=config.whole("first_k_dense_replace", 0))


@family("DeepseekV3ForCausalLM", names=LATENT, tiny=TINY_3)
def deepseek_v3(config: HfConfig) -> ModelSpec:
    """Experts by sigmoid, chosen with a correction; a group counts as much as its best two."""
    one_of(config, "scoring_func", "sigmoid")
    one_of(config, "topk_method", "noaux_tc")
    router = Router(
        config.integer("num_experts_per_tok", 8),
        RouterScore.SIGMOID,
        is_renormalized=config.flag("norm_topk_prob", default=True),
        correction=True,
        groups=groups(config, counted=2),
        scale=config.number("routed_scaling_factor", 2.5),
    )
    return latent_decoder(config, router, first_expert=config.whole("first_k_dense_replace", 3))


def one_of(config: HfConfig, name: str, *values: str) -> str:
    """A field with few values; the first one where it is absent."""
    value = config.text(name, values[0])
    if value not in values:
        raise config.refuse(name, " or ".join(values))
    return value


def groups(config: HfConfig, counted: int) -> ExpertGroups:
    """Equal ones, each with the experts that are counted."""
    count, chosen, experts = (config.integer(name) for name in ("n_group", "topk_group", "n_routed_experts"))
    if experts % count or experts // count < counted:
        raise config.refuse("n_group", f"a divisor of {experts} experts that leaves groups of at least {counted}")
    if chosen > count:
        raise config.refuse("topk_group", f"at most {count}, the number of groups")
    if config.integer("num_experts_per_tok") > (open_experts := experts // count * chosen):
        raise config.refuse("num_experts_per_tok", f"at most {open_experts}, the experts of {chosen} groups")
    return ExpertGroups(count, chosen, counted)


def latent_decoder(config: HfConfig, router: Router, first_expert: int) -> ModelSpec:
    """Dense layers, then experts."""
    if config.integer("moe_layer_freq", 1) != 1:
        raise config.refuse("moe_layer_freq", "1")
    norm, dense = Norm.rms(config.number("rms_norm_eps", 1e-6)), gated(config)
    width = config.integer("moe_intermediate_size")
    shared = replace(dense, intermediate=width * config.integer("n_shared_experts"))
    experts = Experts(config.integer("n_routed_experts"), width, dense.activation, router, shared=shared)
    spec = decoder(config, LayerSpec(norm, latent(config), norm, dense), norm, is_tied=False)
    behind = (replace(layer, feed_forward=experts) for layer in spec.layers[first_expert:])
    return replace(spec, layers=(*spec.layers[:first_expert], *behind))


def latent(config: HfConfig) -> Latent:
    """Where YaRN stretches positions, `mscale_all_dim` sharpens the scores."""
    plain, dim = config.integer("qk_nope_head_dim"), config.integer("qk_rope_head_dim")
    turned = rope(config, dim, interleaved=config.flag("rope_interleave", default=True))
    scale = (plain + dim) ** -0.5
    section = config.section("rope_parameters") or config.section("rope_scaling")
    if isinstance(turned.scaling, YarnRope) and section is not None and "mscale_all_dim" in section:
        scale *= yarn_temperature(turned.scaling.factor, section.number("mscale_all_dim")) ** 2
    return Latent(
        num_heads=config.integer("num_attention_heads"),
        rank=config.integer("kv_lora_rank"),
        query_rank=config.integer("q_lora_rank") if "q_lora_rank" in config else None,
        plain_dim=plain,
        value_dim=config.integer("v_head_dim"),
        rope=turned,
        scale=scale,
        norm=Norm.rms(1e-6),
        bias=config.flag("attention_bias", default=False),
    )
