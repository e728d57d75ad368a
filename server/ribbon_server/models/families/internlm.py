"""InternLM 2 and 3: Llama's block, in other words and with switches of its own. https://arxiv.org/abs/2403.17297"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.names import Fused, NameTable, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec

NAMES_2 = NameTable(
    stem="model.layers.{layer}.",
    layer={
        "attention_norm": "attention_norm",
        "qkv": Tensors(("attention.wqkv",), Fused.GROUPED),
        "output": "attention.wo",
        "feed_forward_norm": "ffn_norm",
        "gate_up": ("feed_forward.w1", "feed_forward.w3"),
        "down": "feed_forward.w2",
    },
    outer={"embedding": "model.tok_embeddings", "final_norm": "model.norm", "head": "output"},
    ignored=("rotary_emb.inv_freq",),
)
SIZES = {**TINY.fields, "hidden_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 9000.0}
TINY_2 = TinyConfig({**SIZES, "bias": False}, {"biases": {"bias": True}})
TINY_3 = TinyConfig(
    {**SIZES, "bias": False, "qkv_bias": False}, {"biases": {"bias": True}, "inner biases": {"qkv_bias": True}}
)


@family("InternLM2ForCausalLM", names=NAMES_2, tiny=TINY_2)
def internlm2(config: HfConfig) -> ModelSpec:
    """`bias` is for attention alone."""
    bias = config.flag("bias", default=False)
    return llama(config).with_attention(qkv_bias=bias, output_bias=bias)


@family("InternLM3ForCausalLM", names=NAMES, tiny=TINY_3)
def internlm3(config: HfConfig) -> ModelSpec:
    """`qkv_bias` is for queries, keys and values, `bias` for every other linear layer."""
    bias = config.flag("bias", default=False)
    spec = llama(config).with_attention(qkv_bias=config.flag("qkv_bias", default=False), output_bias=bias)
    return spec.with_feed_forward(bias=bias)
