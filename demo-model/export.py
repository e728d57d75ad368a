"""Writes a trained model in the Hugging Face layout. Knows the names Llama checkpoints use."""

from pathlib import Path

import torch
from model import DemoModel, Shape
from safetensors.torch import save_file
from tokenizer import BEGIN, END, PAD, save_tokenizer, write_json
from tokenizers import Tokenizer
from torch import Tensor

LAYER_NAMES = {
    "input_norm.weight": "input_layernorm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
TOP_NAMES = {"embedding": "model.embed_tokens.weight", "final_norm.weight": "model.norm.weight"}


def checkpoint_name(name: str) -> str:
    """The Hugging Face name of one of our parameters."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, index, rest = name.split(".", 2)
    return f"model.layers.{index}.{LAYER_NAMES[rest]}"


def hf_tensors(model: DemoModel) -> dict[str, Tensor]:
    """All parameters by their Hugging Face names, in bfloat16."""
    return {checkpoint_name(name): p.detach().bfloat16().contiguous() for name, p in model.named_parameters()}


def hf_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    """The contents of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.mlp_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        **special_ids(tokenizer),
    }


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids both config files name."""
    names = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
    return {key: tokenizer.token_to_id(token) for key, token in names.items()}


def export(model: DemoModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights, both configs and the tokenizer; replaces what is there."""
    save_tokenizer(tokenizer, folder, model.shape.max_positions)
    write_json(folder / "config.json", hf_config(model.shape, tokenizer))
    write_json(folder / "generation_config.json", special_ids(tokenizer) | {"do_sample": False})
    partial = folder / "model.safetensors.partial"
    with torch.no_grad():
        save_file(hf_tensors(model), partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
