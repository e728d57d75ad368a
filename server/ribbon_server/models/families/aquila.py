"""Aquila: Llama's block under a name of its own. https://github.com/FlagAI-Open/FlagAI"""

from ribbon_server.models.families.llama import NAMES, TINY, llama
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.registry import TinyConfig, family
from ribbon_server.models.spec import ModelSpec

FIELDS = {name: value for name, value in TINY.fields.items() if name != "head_dim"}
TINY_AQUILA = TinyConfig({**FIELDS, "hidden_size": 64, "rms_norm_eps": 1e-5})


@family("AquilaForCausalLM", "AquilaModel", names=NAMES, tiny=TINY_AQUILA)
def aquila(config: HfConfig) -> ModelSpec:
    """As its published code says: nothing is different."""
    return llama(config)
