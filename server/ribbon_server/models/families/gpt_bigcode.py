"""SantaCoder and StarCoder: GPT-2's decoder, all heads sharing one key-value head. https://arxiv.org/abs/2305.06161"""

from ribbon_server.models.families.gpt2 import NAMES, TINY, gpt_block
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.names import Fused, Tensors
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec

NAMES_BIGCODE = NAMES.but(
    qkv=Tensors(("attn.c_attn",), Fused.GROUPED), output="attn.c_proj", gate_up="mlp.c_fc", down="mlp.c_proj"
)
OWN_HEADS = {"own heads": {"multi_query": False, "tie_word_embeddings": False, "scale_attn_weights": False}}


@family("GPTBigCodeForCausalLM", "GPT2CustomLMHeadModel", names=NAMES_BIGCODE, tiny=TinyConfig(TINY.fields, OWN_HEADS))
def gpt_bigcode(config: HfConfig) -> ModelSpec:
    """`multi_query` false gives each head its own keys and values."""
    is_shared = config.flag("multi_query", default=True)
    return gpt_block(config, 1 if is_shared else config.integer("n_head"), "gelu_pytorch_tanh")
