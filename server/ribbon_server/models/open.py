"""From a model directory to a ready decoder: config, family, dtype, weights. The one entrance to this room."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ribbon_server.config import DType
from ribbon_server.device import CPU
from ribbon_server.distributed.base import Group
from ribbon_server.distributed.single import SINGLE
from ribbon_server.errors import BadSetting
from ribbon_server.layers.dtypes import TORCH_DTYPES
from ribbon_server.layers.registry import Kernels
from ribbon_server.machine import computes_bfloat16
from ribbon_server.models.assemble import assemble
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.decoder import Decoder
from ribbon_server.models.hf_config import eos_token_ids
from ribbon_server.models.loader import load_weights
from ribbon_server.models.mxfp4 import unpacked
from ribbon_server.models.registry import family_of
from ribbon_server.models.share import share_of
from ribbon_server.models.spec import ModelSpec
from ribbon_server.telemetry import log

STORED_DTYPES = {"F32": DType.FLOAT32, "BF16": DType.BFLOAT16, "F16": DType.FLOAT16}


@dataclass(frozen=True)
class Model:
    """A loaded model and what it says of itself."""

    spec: ModelSpec
    decoder: Decoder
    dtype: DType
    eos_token_ids: tuple[int, ...]
    group: Group = SINGLE  # who holds the rest of it


def open_model(
    folder: Path, dtype: DType | None, kernels: Kernels, device: torch.device = CPU, group: Group = SINGLE
) -> Model:
    """Loads a rank's share of the model in `folder` to `device`, all of it where the rank is alone; `dtype` None takes the
    checkpoint's, as the device computes it best.

    Raises:
        BadSetting: `folder` is no complete model directory.
        ModelNotSupported: No family builds its architecture, a setting of it is not supported, or it cannot be dealt out to so
            many ranks.
        WeightsMismatch: The weights are unreadable or do not fit the configuration.
    """
    if not folder.is_dir():
        raise BadSetting(
            f"model directory {folder} does not exist; give a directory with config.json and safetensors weights"
        )
    checkpoint = unpacked(SafetensorsCheckpoint(folder))
    family = family_of(checkpoint.config.architecture)
    spec = family.build(checkpoint.config)
    own = share_of(spec, group.rank)
    stored = frozenset(map(checkpoint.dtype_name, checkpoint.names()))
    if device.type == "cpu":
        chosen = choose_dtype(dtype, stored, bfloat16_is_fast=computes_bfloat16())
    else:
        chosen = dtype or stored_dtype(stored)
    weights = load_weights(spec, family.names, checkpoint, TORCH_DTYPES[chosen], device, group.rank)
    decoder = assemble(own, weights, kernels, group)
    return Model(spec, decoder, chosen, eos_token_ids(folder, checkpoint.config), group)


def stored_dtype(stored: frozenset[str]) -> DType:
    """The checkpoint's own type, for devices that compute every one of them; the widest where tensors differ."""
    own = {STORED_DTYPES.get(name, DType.FLOAT32) for name in stored}
    return own.pop() if len(own) == 1 else DType.FLOAT32


def choose_dtype(wanted: DType | None, stored: frozenset[str], *, bfloat16_is_fast: bool) -> DType:
    """The type to compute in on a CPU. A given type is kept, except float16, which CPUs do not multiply: it becomes bfloat16."""
    if wanted is DType.FLOAT16:
        log(logging.WARNING, "float16 is raised to bfloat16 on a CPU", dtype="bfloat16")
        return DType.BFLOAT16
    if wanted is not None:
        return wanted
    own = {STORED_DTYPES.get(name, DType.FLOAT32) for name in stored}
    if own == {DType.FLOAT32} or not own or not bfloat16_is_fast:
        return DType.FLOAT32
    return DType.BFLOAT16
