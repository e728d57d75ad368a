"""One way of loading a model, in a process of its own for benchmarks/loading.py: says when it is ready, waits for a line, works,
says what it took, and keeps what it loaded until its input ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 8 << 20
PLAIN, WEIGHTS, HALF, MODEL = "plain read", "weights", "weights of rank 1 of 2", "model ready to run"
LOADS = (WEIGHTS, HALF, MODEL)  # what is bounded

Work = Callable[[], tuple[int, object]]  # bytes, and what must stay


def plain_read(model: Path) -> Work:
    """Every byte of the files into one small buffer."""
    files = sorted(model.glob("*.safetensors"))
    buffer = bytearray(BLOCK_BYTES)

    def work() -> tuple[int, object]:
        total = 0
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    total += count
        return total, None

    return work


def weights(model: Path, index: int = 0, world_size: int = 1) -> Work:
    """What the loader makes of the files."""
    import torch

    from ribbon_server.device import CPU
    from ribbon_server.distributed.sharding import ALONE, Place, Rank
    from ribbon_server.models.checkpoint import SafetensorsCheckpoint
    from ribbon_server.models.loader import load_weights
    from ribbon_server.models.registry import family_of

    rank = Rank(index, world_size)

    def work() -> tuple[int, object]:
        checkpoint = SafetensorsCheckpoint(model)
        family = family_of(checkpoint.config.architecture)
        spec = family.build(checkpoint.config)
        loaded = load_weights(spec, family.names, checkpoint, torch.bfloat16, CPU, Place(ALONE, rank))
        return sum(weight.nbytes for weight in loaded.values()), loaded

    return work


def ready_model(model: Path) -> Work:
    """A decoder with the CPU's kernels, layers packed."""
    from ribbon_server.config import DType
    from ribbon_server.layers.registry import native_kernels
    from ribbon_server.models.open import open_model

    kernels = native_kernels()
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return lambda: (size, open_model(model, DType.BFLOAT16, kernels))


WAYS: dict[str, Callable[[Path], Work]] = {
    PLAIN: plain_read,
    WEIGHTS: weights,
    HALF: lambda model: weights(model, 1, 2),
    MODEL: ready_model,
}


def main() -> None:
    """Runs one way."""
    work = WAYS[sys.argv[1]](Path(sys.argv[2]))
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    size, _kept = work()
    print(json.dumps({"seconds": time.perf_counter() - started, "bytes": size}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
