"""DBRX: clipped projections, sixteen experts of which each token sees four. https://github.com/databricks/dbrx"""

from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.hf_layers import ACTIVATIONS, Sizes, decoder, whole_heads
from ribbon_server.models.hf_rope import rope_of
from ribbon_server.models.names import NameTable, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import Experts, Grouped, LayerSpec, ModelSpec, Norm, Router

NAMES = NameTable(
    stem="transformer.blocks.{layer}.",
    layer={
        "attention_norm": "norm_attn_norm.norm_1",
        "qkv": "norm_attn_norm.attn.Wqkv",
        "output": "norm_attn_norm.attn.out_proj",
        "feed_forward_norm": "norm_attn_norm.norm_2",
        "router": "ffn.router.layer",
        "experts_gate_up": Tensors(("ffn.experts.mlp.w1", "ffn.experts.mlp.v1"), weight=""),
        "experts_down": Tensors(("ffn.experts.mlp.w2",), is_transposed=True, blocks=True, weight=""),
    },
    outer={"embedding": "transformer.wte", "final_norm": "transformer.norm_f", "head": "lm_head"},
)
TINY = TinyConfig(
    {
        "vocab_size": 160,
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 3,
        "max_seq_len": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 9000.0},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.5, "rope_theta": 9000.0},
        "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2},
    },
    {"not renormalized": {"ffn_config": {"ffn_hidden_size": 40, "moe_top_k": 2, "moe_normalize_expert_weights": None}}},
)
SIZES = Sizes("d_model", "max_seq_len", "n_layers", "n_heads")


@family("DbrxForCausalLM", names=NAMES, tiny=TINY)
def dbrx(config: HfConfig) -> ModelSpec:
    """What is said of attention and of the experts stands in sections of its own."""
    norm = Norm.layer(1e-5, bias=False)
    layer = LayerSpec(norm, _attention(config), norm, _experts(config))
    return decoder(config, layer, norm, is_tied=False, sizes=SIZES)


def _section(config: HfConfig, name: str) -> HfConfig:
    return config.section(name) or HfConfig({}, f"config.json: {name}")


def _attention(config: HfConfig) -> Grouped:
    own = _section(config, "attn_config")
    num_heads = config.integer("n_heads")
    head_dim = whole_heads(config, num_heads, "d_model")
    kv_heads = own.integer("kv_n_heads", 1)
    if num_heads % kv_heads != 0:
        raise own.refuse("kv_n_heads", f"a divisor of {num_heads}, the number of heads")
    rope = rope_of(config.section("rope_parameters"), own, head_dim)
    clip = own.optional("clip_qkv")
    return Grouped(num_heads, kv_heads, head_dim, head_dim**-0.5, rope, qkv_bias=False, output_bias=False, clip=clip)


def _experts(config: HfConfig) -> Experts:
    own = _section(config, "ffn_config")
    function = _section(own, "ffn_act_fn").text("name", "silu")
    if function not in ACTIVATIONS:
        raise own.refuse("ffn_act_fn", f"named one of {', '.join(ACTIVATIONS)}")
    exponent = own.optional("moe_normalize_expert_weights")
    if exponent not in (None, 1.0):
        raise own.refuse("moe_normalize_expert_weights", "1 or null")
    return Experts(
        num_experts=own.integer("moe_num_experts", 4),
        intermediate=own.integer("ffn_hidden_size", 3584),
        activation=ACTIVATIONS[function],
        router=Router(own.integer("moe_top_k", 1), is_renormalized=exponent is not None),
    )
