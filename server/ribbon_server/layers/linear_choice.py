"""Picks the fastest linear layer for a weight: what this build of torch has, and a short race at load. Knows shapes, no model."""

import logging
import time
from collections.abc import Callable

from torch import Tensor

from ribbon_server.layers.linear import LinearLayer, NativeLinear, PackedOneDnnLinear, TorchLinear, packs_with_onednn
from ribbon_server.telemetry import log

LAPS = 7
RACED_ROWS = (1, 8)
WINS_BY = 0.95  # without AMX the native one keeps a second copy of the weight, which has to earn its memory


class LinearChooser:
    """Builds linear layers; each shape is raced once."""

    def __init__(self) -> None:
        """No race has been run."""
        self._winners: dict[tuple[int, ...], type[NativeLinear | PackedOneDnnLinear]] = {}

    def __call__(self, weight: Tensor, bias: Tensor | None = None) -> LinearLayer:
        """The layer for `weight` [out, in]."""
        if not packs_with_onednn(weight.dtype):
            return TorchLinear(weight, bias)
        shape = tuple(weight.shape)
        if shape in self._winners:
            return self._winners[shape](weight, bias)
        winner = raced(weight, bias)
        self._winners[shape] = type(winner)
        return winner


def raced(weight: Tensor, bias: Tensor | None) -> NativeLinear | PackedOneDnnLinear:
    """The native kernel where it beats oneDNN over one row and over eight, together; else that.

    More rows are not raced: alone, oneDNN is up to a third faster there, but in a step its threads wait for a core that the
    native ones still look out on, and the step is slower by a fifth (benchmarks/LOG.md, "One team of threads").
    """
    native, packed = NativeLinear(weight, bias), PackedOneDnnLinear(weight, bias)
    races = [race(native, packed, weight.new_zeros((rows, weight.shape[1]))) for rows in RACED_ROWS]
    ours, theirs = (sum(times) for times in zip(*races, strict=True))
    log(logging.INFO, f"linear {list(weight.shape)}: native {ours / 1e3:.0f} us, oneDNN {theirs / 1e3:.0f} us")
    return native if ours < WINS_BY * theirs else packed


def race(first: LinearLayer, second: LinearLayer, x: Tensor) -> tuple[int, int]:
    """Best lap of each, nanoseconds; laps alternate, so that a busy machine disturbs both."""
    laps = [(_lap(first, x), _lap(second, x)) for _ in range(LAPS)]
    return min(lap[0] for lap in laps), min(lap[1] for lap in laps)


def _lap(layer: Callable[[Tensor], Tensor], x: Tensor) -> int:
    started_ns = time.perf_counter_ns()
    layer(x)
    return time.perf_counter_ns() - started_ns
