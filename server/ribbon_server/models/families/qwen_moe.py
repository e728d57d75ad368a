"""Qwen2-MoE and Qwen3-MoE: many narrow experts; the former with a shared one. https://arxiv.org/abs/2505.09388"""

from dataclasses import replace

from ribbon_server.models.families.llama import NAMES, TINY
from ribbon_server.models.families.qwen import QK_NORM, qwen2, qwen3
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation
from ribbon_server.models.names import NameTable
from ribbon_server.models.registry import Fields, TinyConfig, family
from ribbon_server.models.spec import Dense, Experts, ModelSpec, Router


def with_experts(names: NameTable) -> NameTable:
    """Each expert under Llama's names."""
    return names.but(
        router="mlp.gate",
        experts_gate_up=("mlp.experts.{expert}.gate_proj", "mlp.experts.{expert}.up_proj"),
        experts_down="mlp.experts.{expert}.down_proj",
        shared_gate_up=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
        shared_down="mlp.shared_expert.down_proj",
        shared_gate="mlp.shared_expert_gate",
    )


FIELDS = {**TINY.fields, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
SHARED = {**FIELDS, "shared_expert_intermediate_size": 56, "hidden_size": 64}
VARIANTS: dict[str, Fields] = {
    "renormalized": {"norm_topk_prob": True},
    "some dense": {"mlp_only_layers": [1], "decoder_sparse_step": 1},
}


@family("Qwen2MoeForCausalLM", names=with_experts(NAMES), tiny=TinyConfig(SHARED, VARIANTS))
def qwen2_moe(config: HfConfig) -> ModelSpec:
    """How much the shared expert counts is learned."""
    function = activation(config, "hidden_act", "silu")
    shared = Dense(config.integer("shared_expert_intermediate_size"), function, bias=False)
    spec = qwen2(config).with_attention(qkv_bias=config.flag("qkv_bias", default=True))
    return in_sparse_layers(spec, config, replace(narrow_experts(config), shared=shared, shared_gate=True))


@family("Qwen3MoeForCausalLM", names=with_experts(QK_NORM), tiny=TinyConfig(FIELDS, VARIANTS))
def qwen3_moe(config: HfConfig) -> ModelSpec:
    """Experts alone."""
    return in_sparse_layers(qwen3(config), config, narrow_experts(config))


def narrow_experts(config: HfConfig) -> Experts:
    """Of `moe_intermediate_size`; `norm_topk_prob` makes the chosen ones' weights sum to one."""
    return Experts(
        num_experts=config.integer(config.name_of("num_experts", "num_local_experts")),
        intermediate=config.integer("moe_intermediate_size"),
        activation=activation(config, "hidden_act", "silu"),
        router=Router(
            config.integer("num_experts_per_tok"), is_renormalized=config.flag("norm_topk_prob", default=False)
        ),
    )


def in_sparse_layers(spec: ModelSpec, config: HfConfig, experts: Experts) -> ModelSpec:
    """Every `decoder_sparse_step`-th layer has experts, but those of `mlp_only_layers`."""
    step, dense = config.integer("decoder_sparse_step", 1), config.token_ids("mlp_only_layers")
    layers = (
        replace(layer, feed_forward=experts) if (index + 1) % step == 0 and index not in dense else layer
        for index, layer in enumerate(spec.layers)
    )
    return replace(spec, layers=tuple(layers))
