"""Times the native kernels against torch on the 120 M shape, in CPU milliseconds, so that a busy machine distorts little.

PYTHONPATH=server:benchmarks .venv/bin/python -m kernels.native [--threads 1] [--rounds 10]
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from kernels.region_ops import apply

from ribbon_server import _native

HEADS, KV_HEADS, DIM, LAYERS = 12, 4, 64, 12
GROW, OPEN = 3, 1
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Least CPU time of some rounds, all threads together."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times) * 1e3


class Attention:
    """A batch over a region, and the same for torch one sequence at a time."""

    def __init__(self, dtype: str, feeds: list[int], lengths: list[int]) -> None:
        self.dtype, self.kind = dtype, DTYPES[dtype]
        self.layer_bytes = 2 * KV_HEADS * DIM * self.kind.itemsize
        slots, stride = len(feeds), LAYERS * self.layer_bytes
        sizes = {"num_slots": slots + 1, "num_storages": slots + 1, "slot_tokens": max(lengths)}
        self.region = _native.Region(**sizes, stride_bytes=stride, num_pages=1 << 22)
        rows = [(k, s, s * (k == OPEN), n * (k == GROW)) for s, n in enumerate(lengths, 1) for k in (OPEN, GROW)]
        apply(self.region, *rows)
        starts = np.cumsum([0, *feeds]).astype(np.uint32)
        self.runs = _native.Runs(
            self.region, np.arange(1, slots + 1, dtype=np.uint32), starts, np.array(lengths, np.uint32)
        )
        self.query = torch.randn(sum(feeds), HEADS, DIM).to(self.kind)
        self.output = torch.empty_like(self.query)
        self.sequences = [
            [
                torch.randn(1, heads, count, DIM).to(self.kind)
                for heads, count in ((HEADS, feed), (KV_HEADS, n), (KV_HEADS, n))
            ]
            for feed, n in zip(feeds, lengths, strict=True)
        ]
        self.causal = max(feeds) > 1

    def ours(self) -> None:
        shape = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM, "vectors": 2, "dtype": self.dtype}
        scores = {"scale": DIM**-0.5, "softcap": None, "slopes": 0, "sinks": 0, "chunk": None}
        for layer in range(LAYERS):
            place = {
                "query": self.query.data_ptr(),
                "output": self.output.data_ptr(),
                "kv_offset": layer * self.layer_bytes,
            }
            self.runs.attention(**place, **shape, **scores)

    def torchs(self) -> None:
        for _ in range(LAYERS):
            for query, key, value in self.sequences:
                torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, is_causal=self.causal, enable_gqa=True
                )


def attention_rows(rounds: int) -> dict[str, tuple[float, float]]:
    lengths = [int(n) for n in np.random.default_rng(0).integers(64, 2048, 32)]
    figures = {}
    for dtype in DTYPES:
        for name, feeds, ends in (("decode 32", [1] * 32, lengths), ("prompt 512", [512], [512])):
            case = Attention(dtype, feeds, ends)
            figures[f"attention {name} {dtype}"] = cpu_ms(case.ours, rounds), cpu_ms(case.torchs, max(2, rounds // 5))
    return figures


def linear_rows(rounds: int) -> dict[str, tuple[float, float]]:
    figures = {}
    for out, width in ((2048, 768), (768, 2048), (32_000, 768)):
        weights = [torch.randn(out, width).bfloat16() for _ in range(8)]
        packed = [_native.PackedLinear(weight.data_ptr(), out, width) for weight in weights]
        for rows in (1, 8):
            x, output = torch.randn(rows, width).bfloat16(), torch.empty(rows, out).bfloat16()
            ours = cpu_ms(
                lambda x=x, o=output, p=packed, n=rows: [one.forward(x.data_ptr(), o.data_ptr(), n) for one in p],
                rounds,
            )
            torchs = cpu_ms(lambda x=x, w=weights: [torch.nn.functional.linear(x, one) for one in w], rounds)
            figures[f"linear {width}x{out}, {rows} rows"] = ours / 8, torchs / 8
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _native.set_num_threads(options.threads)
    figures = {**attention_rows(options.rounds), **linear_rows(options.rounds)}
    print(f"{'kernel':36} {'ours ms':>9} {'torch ms':>9} {'ratio':>6}")
    for name, (ours, torchs) in figures.items():
        print(f"{name:36} {ours:9.3f} {torchs:9.3f} {torchs / ours:6.2f}")
    report = {name: {"cpu_ms": ours, "torch_cpu_ms": torchs} for name, (ours, torchs) in figures.items()}
    print(json.dumps({"threads": options.threads, "features": _native.cpu_features(), "kernels": report}))


if __name__ == "__main__":
    main()
