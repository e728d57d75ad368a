"""Which device a shard computes on, and the way there. Knows what torch sees, no model."""

import numpy as np
import torch
from torch import Tensor

from ribbon_server.distributed.sharding import Rank
from ribbon_server.errors import BadSetting

CPU = torch.device("cpu")


def choose_device(wanted: str | None) -> torch.device:
    """The device that `--device` names: `cpu`, `cuda` or `cuda:N`; without it CUDA where torch sees one, else the CPU.

    Raises:
        BadSetting: It names a device that is not there.
    """
    present = num_devices()
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


def choose_rank_device(wanted: str | None, rank: Rank) -> torch.device:
    """As `choose_device`, of one of several ranks: on CUDA each has a device of its own, that of its number.

    Raises:
        BadSetting: There are too few, or `--device` names the same one to all.
    """
    device, present = choose_device(wanted), num_devices()
    if rank.world_size == 1 or device.type == "cpu":
        return device
    if wanted not in (None, "cuda"):
        raise BadSetting(f"`--device` is {wanted!r}; {rank.world_size} ranks have a device each, use cuda or cpu")
    if rank.world_size > present:
        raise BadSetting(
            f"{rank.world_size} ranks need a device each, torch sees {present}; lower `--num-shard` or `--pipeline-parallel-size`, "
            "or use `--device cpu`"
        )
    return torch.device("cuda", rank.index)


def num_devices() -> int:
    """CUDA devices that torch sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """`values` on `device`, without waiting for it; on the CPU the same memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
