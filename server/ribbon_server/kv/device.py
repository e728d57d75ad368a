"""The KV memory of a device: its layout, its budget, its wrapping as a tensor. Knows the native region, no layer's meaning."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ribbon_server import _native
from ribbon_server.kv.layout import KvLayout, LayerShape, kv_layout

LAYERS_PER_BAND = 4  # until measured (design section 3, stop rule)
MEMORY_SHARE = (
    0.9  # of what is free once the weights are there; the rest is for activations and the libraries' workspaces
)


def layout_on(device: torch.device, layers: Sequence[LayerShape], itemsize: int) -> KvLayout:
    """The layout that suits `device`: everything of a token together on the CPU, bands of a few layers on CUDA.

    Raises:
        OSError: The device's driver does not answer.
    """
    if device.type == "cpu":
        return kv_layout(layers, itemsize)
    page_bytes = _native.cuda_memory(device.index or 0)["granularity"]
    return replace(kv_layout(layers, itemsize, layers_per_band=LAYERS_PER_BAND), page_bytes=page_bytes)


def device_free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that nobody has taken yet."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)
