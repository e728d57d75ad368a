"""What this machine can do at most, measured in the same run: bf16 GEMMs at a model's shapes, and reading memory.

python benchmarks/machine_limits.py MODEL_DIRECTORY [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROWS = 512  # tokens of one GEMM, as a prefill chunk has them
READ_BYTES = 3 << 29  # 1.5 GiB: above the cache share of one machine
REPEATS = 5


@dataclass(frozen=True)
class Limits:
    """Best of a few repeats. `read_again`: rereading as many bytes as a decode step touches, which may come from a cache."""

    gemm_gflops: float
    read_gigabytes_per_second: float
    read_again_gigabytes_per_second: float
    layer_parameters: int
    head_parameters: int
    weight_bytes_per_token: int

    def gemm_limit_of_peers(self, prompt_tokens: int, output_tokens: int) -> float:
        """Output tokens/s as the peers were reckoned: layers and head for every token (4.1 TFLOP for 32 x (512 + 128) on 120m)."""
        flop = 2 * (self.layer_parameters + self.head_parameters) * (prompt_tokens + output_tokens)
        return output_tokens * self.gemm_gflops * 1e9 / flop

    def gemm_limit(self, prompt_tokens: int, output_tokens: int) -> float:
        """Output tokens/s if GEMMs were all: layers for every token fed, the head for every token sampled."""
        flop = 2 * (self.layer_parameters * (prompt_tokens + output_tokens - 1) + self.head_parameters * output_tokens)
        return output_tokens * self.gemm_gflops * 1e9 / flop

    def alone_limit(self, prompt_tokens: int, output_tokens: int) -> float:
        """Output tokens/s of one request: the prompt at the GEMM limit, then every weight read once a token at the better rate."""
        prefill = 2 * self.layer_parameters * prompt_tokens / (self.gemm_gflops * 1e9)
        rate = max(self.read_gigabytes_per_second, self.read_again_gigabytes_per_second) * 1e9
        return output_tokens / (prefill + output_tokens * self.weight_bytes_per_token / rate)


def best_seconds(work: Callable[[], object]) -> float:
    """Shortest of a few runs, after one that warms up."""
    work()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def layer_shapes(config: dict[str, int]) -> list[tuple[int, int]]:
    """[outputs, inputs] of one layer's GEMMs, fused where a server would fuse them."""
    hidden, mlp, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return [(query + 2 * keys, hidden), (hidden, query), (2 * mlp, hidden), (hidden, mlp)]


@torch.inference_mode()
def measure(model: Path) -> Limits:
    """Takes about ten seconds and 2 GB."""
    config = json.loads((model / "config.json").read_text())
    shapes, layers = layer_shapes(config), config["num_hidden_layers"]
    seconds = 0.0
    for outputs, inputs in shapes:
        weight, x = torch.randn(outputs, inputs).bfloat16(), torch.randn(ROWS, inputs).bfloat16()
        seconds += best_seconds(lambda x=x, weight=weight: torch.nn.functional.linear(x, weight))
    parameters = sum(outputs * inputs for outputs, inputs in shapes)
    head = config["vocab_size"] * config["hidden_size"]
    touched = 2 * (parameters * layers + head)
    return Limits(
        gemm_gflops=2 * ROWS * parameters / seconds / 1e9,
        read_gigabytes_per_second=read_rate(READ_BYTES),
        read_again_gigabytes_per_second=read_rate(touched),
        layer_parameters=parameters * layers,
        head_parameters=head,
        weight_bytes_per_token=touched,
    )


def read_rate(num_bytes: int) -> float:
    """GB/s of summing so many bytes with all threads."""
    data = torch.ones(num_bytes // 4, dtype=torch.float32)
    return data.nbytes / best_seconds(data.sum) / 1e9


def main() -> None:
    """Prints the limits as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(asdict(measure(arguments.model))))


if __name__ == "__main__":
    main()
