"""Makes random-weight Llama models in Hugging Face layout, so that speed is measured without a download.

Knows shapes and file formats; not servers and not how a model is run. The same shape, dtype and seed give the same bytes.

    python benchmarks/models.py 120m [DIRECTORY] [--dtype bfloat16] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from model_tokenizer import BEGIN_ID, END_ID, write_tokenizer
from safetensors.torch import save_file

CACHE = Path(__file__).resolve().parent.parent / ".models"
BYTES_PER_FILE = 1 << 30


@dataclass(frozen=True)
class Shape:
    """Sizes of one model. `old_rope_key`: write `rope_theta` where newer checkpoints write `rope_parameters`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    positions: int
    old_rope_key: bool = True


SHAPES = {
    "tiny": Shape(2, 64, 4, 2, 16, 160, 2_000, 4_096, old_rope_key=False),
    "tiny-wide-heads": Shape(3, 64, 4, 1, 32, 128, 2_000, 4_096),
    "120m": Shape(12, 768, 12, 4, 64, 2_048, 32_000, 4_096),
    "1b": Shape(16, 2_048, 32, 8, 64, 8_192, 32_000, 4_096),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Gains over 1/sqrt(fan-in). With these a greedy continuation wanders over the vocabulary instead of repeating one token,
# and the two best scores of a position differ by about 0.5 (median of 200 positions on tiny and 120m).
ATTENTION_GAIN = 1.5
HEAD_GAIN = 2.5
EMBEDDING_STD = 0.5


def make_model(name: str, directory: Path | None = None, *, dtype: str = "bfloat16", seed: int = 0) -> Path:
    """Returns the directory of the model, making it first when it is not there. An interrupted run leaves nothing behind."""
    target = directory or CACHE / f"{name}-{dtype}-{seed}"
    if (target / "config.json").exists():
        return target
    shape = SHAPES[name]
    scratch = target.with_name(target.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    write_tokenizer(scratch, shape.vocabulary, shape.positions)
    write_weights(scratch, shape, DTYPES[dtype], seed)
    (scratch / "generation_config.json").write_text(
        json.dumps({"bos_token_id": BEGIN_ID, "eos_token_id": END_ID}, indent=2)
    )
    (scratch / "config.json").write_text(json.dumps(config(shape, dtype), indent=2))
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    return target


def config(shape: Shape, dtype: str) -> dict[str, object]:
    """The model's config.json."""
    rope = (
        {"rope_theta": 10_000.0}
        if shape.old_rope_key
        else {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.positions,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BEGIN_ID,
        "eos_token_id": END_ID,
        "dtype": dtype,
        "torch_dtype": dtype,
        **rope,
    }


def matrices(shape: Shape) -> Iterator[tuple[str, tuple[int, int], float]]:
    """Name, [outputs, inputs] and standard deviation of every matrix, in file order."""
    fan_in = 1 / math.sqrt(shape.hidden)
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocabulary, shape.hidden), EMBEDDING_STD
    for layer in range(shape.layers):
        block = f"model.layers.{layer}"
        yield f"{block}.self_attn.q_proj.weight", (query, shape.hidden), ATTENTION_GAIN * fan_in
        yield f"{block}.self_attn.k_proj.weight", (keys, shape.hidden), ATTENTION_GAIN * fan_in
        yield f"{block}.self_attn.v_proj.weight", (keys, shape.hidden), ATTENTION_GAIN * fan_in
        yield f"{block}.self_attn.o_proj.weight", (shape.hidden, query), ATTENTION_GAIN / math.sqrt(query)
        yield f"{block}.mlp.gate_proj.weight", (shape.mlp, shape.hidden), fan_in
        yield f"{block}.mlp.up_proj.weight", (shape.mlp, shape.hidden), fan_in
        yield f"{block}.mlp.down_proj.weight", (shape.hidden, shape.mlp), 1 / math.sqrt(shape.mlp)
    yield "lm_head.weight", (shape.vocabulary, shape.hidden), HEAD_GAIN * fan_in


def norms(shape: Shape) -> Iterator[str]:
    """Names of the norm weights, all [hidden]."""
    for layer in range(shape.layers):
        yield f"model.layers.{layer}.input_layernorm.weight"
        yield f"model.layers.{layer}.post_attention_layernorm.weight"
    yield "model.norm.weight"


def tensors(shape: Shape, dtype: torch.dtype, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor by name. Norm weights vary around 1, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, size, std in matrices(shape):
        yield name, torch.empty(size).normal_(0.0, std, generator=generator).to(dtype)
    for name in norms(shape):
        yield name, torch.empty(shape.hidden).normal_(1.0, 0.1, generator=generator).to(dtype)


def write_weights(directory: Path, shape: Shape, dtype: torch.dtype, seed: int) -> None:
    """Writes model.safetensors, or numbered files with their index above `BYTES_PER_FILE`."""
    files: list[dict[str, torch.Tensor]] = [{}]
    room = BYTES_PER_FILE
    for name, tensor in tensors(shape, dtype, seed):
        if tensor.nbytes > room and files[-1]:
            files.append({})
            room = BYTES_PER_FILE
        files[-1][name] = tensor
        room -= tensor.nbytes
    if len(files) == 1:
        save_file(files[0], directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for number, part in enumerate(files, start=1):
        file_name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        save_file(part, directory / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(tensor.nbytes for part in files for tensor in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def main() -> None:
    """Makes one model and prints its directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument(
        "directory", nargs="?", type=Path, help="where to put it (default: .models/, kept between runs)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(make_model(arguments.shape, arguments.directory, dtype=arguments.dtype, seed=arguments.seed))


if __name__ == "__main__":
    main()
