"""Mixtral: Mistral's block with eight experts of which each token sees two. https://arxiv.org/abs/2401.04088"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import activation, window
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Experts, ModelSpec, Router

MOE = NAMES.but(
    router="block_sparse_moe.gate",
    experts_gate_up=("block_sparse_moe.experts.{expert}.w1", "block_sparse_moe.experts.{expert}.w3"),
    experts_down="block_sparse_moe.experts.{expert}.w2",
)
TINY_MOE = TinyConfig({**TINY.fields, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24})


@family("MixtralForCausalLM", names=MOE, tiny=TINY_MOE)
def mixtral(config: HfConfig) -> ModelSpec:
    """The two experts' weights sum to one."""
    experts = Experts(
        num_experts=config.integer("num_local_experts", 8),
        intermediate=config.integer("intermediate_size"),
        activation=activation(config, "hidden_act", "silu"),
        router=Router(config.integer("num_experts_per_tok", 2), is_renormalized=True),
    )
    return llama(config).with_layers(feed_forward=experts).with_attention(window=window(config))
