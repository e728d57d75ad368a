"""The Triton kernels compile for Hopper, without a device: types, shapes and shared memory are right before the first run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # half a minute of compiling in all

SHARED_MEMORY = 227 * 1024  # bytes that one program may take on sm_90
SERVER = Path(__file__).parents[2]

# A process of its own: the tests' own one interprets its kernels.
PROGRAM = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import importlib

module, name, types, constants, options = json.loads(sys.argv[1])
kernel = getattr(importlib.import_module(module), name)
names = kernel.arg_names
signature = {argument: types.get(argument, "constexpr") for argument in names}
source = ASTSource(kernel, signature, constexprs={(names.index(key),): value for key, value in constants.items()})
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
print(compiled.metadata.shared, len(compiled.asm["cubin"]))
"""

ATTENTION = "ribbon_server.layers.attention.triton_kernels"
INDICES = {"tiles": "*i32", "starts": "*i32", "slots": "*i32", "lengths": "*i32"}
STRIDES = {"slot_stride": "i64", "token_stride": "i64"}
HEADS = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Triton keeps what it compiled."""
    return tmp_path_factory.mktemp("triton")


def compiled_shared_bytes(cache: Path, kernel: str, types: dict, constants: dict, **options: int) -> int:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(SERVER), "TRITON_CACHE_DIR": str(cache)}
    arguments = json.dumps([*kernel.split(":"), types, constants, options])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shared, size = (int(word) for word in done.stdout.split())
    assert size > 0
    return shared


@pytest.mark.parametrize(("element", "head_dim"), [("bf16", 128), ("fp32", 512)])
def test_ragged_attention(element: str, head_dim: int, cache: Path) -> None:
    import torch

    from ribbon_server.layers.attention.base import AttentionShape
    from ribbon_server.layers.attention.triton import TileShape

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[element]
    tile = TileShape.of(AttentionShape(32, 8, head_dim, 1.0, 0, 0), 1000, dtype)
    tensors = dict.fromkeys(("query", "kv", "output"), f"*{element}")
    types = {
        **tensors,
        **INDICES,
        **STRIDES,
        "sinks": "*fp32",
        "slopes": "*fp32",
        "scale": "fp32",
        "softcap": "fp32",
        "window": "i32",
    }
    blocks = {"block_tokens": tile.tokens, "block_group": tile.group, "block_keys": tile.keys, "block_dim": tile.dim}
    flags = {"has_softcap": True, "has_sinks": True, "has_slopes": True, "has_window": True, "widen": False}
    constants = {**HEADS, "head_dim": head_dim, "group": 4, **blocks, **flags}
    stages = 1 if element == "fp32" else 2
    shared = compiled_shared_bytes(
        cache, f"{ATTENTION}:ragged_attention_kernel", types, constants, num_warps=4, num_stages=stages
    )
    assert 0 < shared <= SHARED_MEMORY


@pytest.mark.parametrize("element", ["bf16", "fp32"])
def test_rope_store(element: str, cache: Path) -> None:
    tensors = dict.fromkeys(("qkv", "query", "kv"), f"*{element}")
    types = {**tensors, **STRIDES, "cos": "*fp32", "sin": "*fp32", "slots": "*i64", "positions": "*i64"}
    constants = {**HEADS, "half": 64, "block_heads": 8, "block_dim": 128}
    compiled_shared_bytes(cache, f"{ATTENTION}:rope_store_kernel", types, constants)


def test_the_noise(cache: Path) -> None:
    pointers = {"scores": "*fp32", "output": "*fp32", "seeds": "*i64", "positions": "*i64", "choices": "*i64"}
    kernel = "ribbon_server.sampling.triton_kernels:add_gumbel_kernel"
    compiled_shared_bytes(cache, kernel, {**pointers, "vocab_size": "i32"}, {"block": 512})
