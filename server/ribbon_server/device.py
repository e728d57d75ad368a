"""Which device a shard computes on, and the way there. Knows what torch sees, no model."""

import numpy as np
import torch
from torch import Tensor

from ribbon_server.errors import BadSetting

CPU = torch.device("cpu")


def choose_device(wanted: str | None) -> torch.device:
    """The device that `--device` names: `cpu`, `cuda` or `cuda:N`; without it CUDA where torch sees one, else the CPU.

    Raises:
        BadSetting: It names a device that is not there.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return torch.device("cuda", 0) if present else CPU
    if wanted == "cpu":
        return CPU
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or not (number.isdecimal() or wanted == "cuda"):
        raise BadSetting(f"`--device` is {wanted!r}; it must be cpu, cuda or cuda:N")
    index = int(number or 0)
    if index >= present:
        raise BadSetting(f"`--device` is {wanted!r}; torch sees {present} CUDA devices on this machine")
    return torch.device("cuda", index)


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """`values` on `device`, without waiting for it; on the CPU the same memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
