"""What a run of the GPU check works with, and where its figures go. Puts the shard's package and its test helpers on the path."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "server"), str(ROOT / "server" / "tests")]
PACKAGE = ROOT / "server" / "ribbon_server"
if not list(PACKAGE.glob("_native*.so")):
    sys.exit(
        f"{PACKAGE}/_native.abi3.so is missing; build it with `make native`, or carry it here from where it was built"
    )

import torch  # noqa: E402

from ribbon_server.device import choose_device  # noqa: E402
from ribbon_server.layers.activation import fused_silu_mul  # noqa: E402
from ribbon_server.layers.attention.device_choice import DeviceAttentionChooser  # noqa: E402
from ribbon_server.layers.attention.flash import FlashOperator, aten_operator  # noqa: E402
from ribbon_server.layers.linear import TorchLinear  # noqa: E402
from ribbon_server.layers.norm import FusedRmsNorm  # noqa: E402
from ribbon_server.layers.registry import Kernels  # noqa: E402


class CannotRun(Exception):
    """A stage needs something that this machine does not have; the message says what."""


@dataclass(frozen=True)
class Settings:
    """One run. On the CPU, with `tiny` sizes, a simulated region and another operator, every stage runs in a test."""

    device: torch.device
    tiny: bool = False
    operator: FlashOperator | None = None  # torch's own by default

    @property
    def on_cuda(self) -> bool:
        """Whether the figures mean anything."""
        return self.device.type == "cuda"

    @property
    def flash(self) -> FlashOperator:
        """The attention operator."""
        return self.operator or aten_operator()

    def kernels(self) -> Kernels:
        """What a shard on this device uses."""
        return Kernels(FusedRmsNorm, fused_silu_mul, DeviceAttentionChooser(self.device, self.flash), TorchLinear)


def settings_for(device: str | None, *, tiny: bool) -> Settings:
    """Of the command line. CUDA unless a device is named.

    Raises:
        ValueError: The device is not there.
    """
    return Settings(choose_device(device or "cuda"), tiny)


def results_folder() -> Path:
    """$OUT where it is set, else benchmarks/results."""
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
