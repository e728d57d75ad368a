"""Phi-3.5-MoE: Llama's attention between layer norms, sixteen experts behind a sparse mixer. https://arxiv.org/abs/2404.14219"""

from dataclasses import replace

from ribbon_server.models.families.llama import TINY
from ribbon_server.models.families.mixtral import MOE, mixtral
from ribbon_server.models.families.phi3 import FACTORS
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Experts, Head, ModelSpec, Norm, Router, RouterScore

LONG = {
    "rope_type": "longrope",
    "rope_theta": 5000.0,
    **FACTORS,
    "short_mscale": 1.1,
    "long_mscale": 1.3,
    "original_max_position_embeddings": 48,
}
TINY_MOE = TinyConfig(
    {
        **TINY.fields,
        "hidden_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "router_jitter_noise": 0.2,
        "attention_bias": True,
        "lm_head_bias": True,
    },
    {
        # transformers 5.23 turns by the short factors here whatever the length: both lists are alike, so that it is no matter.
        "longrope, beyond": {"rope_parameters": {**LONG, "long_factor": FACTORS["short_factor"]}},
        "longrope, within": {"rope_parameters": {**LONG, "original_max_position_embeddings": 256}},
    },
)


@family("PhimoeForCausalLM", "PhiMoEForCausalLM", names=MOE, tiny=TINY_MOE)
def phimoe(config: HfConfig) -> ModelSpec:
    """Two experts one after the other, each counted among those near it."""
    norm = Norm.layer(config.number("rms_norm_eps", 1e-5))
    spec = mixtral(config).with_layers(attention_norm=norm, feed_forward_norm=norm)
    router = Router(
        config.integer("num_experts_per_tok", 2),
        RouterScore.SPARSE_MIXER,
        tolerance=config.number("router_jitter_noise", 0.01),
    )
    experts = spec.layers[0].feed_forward
    if isinstance(experts, Experts):
        spec = spec.with_layers(feed_forward=replace(experts, router=router))
    return replace(spec, final_norm=norm, head=Head(bias=config.flag("lm_head_bias", default=False)))
