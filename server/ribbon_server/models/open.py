"""From a model directory to a ready decoder: config, family, dtype, weights. The one entrance to this room."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ribbon_server.config import DType
from ribbon_server.device import CPU
from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import Place
from ribbon_server.distributed.single import SINGLE
from ribbon_server.errors import BadSetting, ModelNotSupported
from ribbon_server.layers.dtypes import TORCH_DTYPES
from ribbon_server.layers.registry import Kernels
from ribbon_server.machine import computes_bfloat16
from ribbon_server.models.assemble import assemble
from ribbon_server.models.bridged_spec import BridgedSpec
from ribbon_server.models.checkpoint import Checkpoint, SafetensorsCheckpoint
from ribbon_server.models.decoder import CausalModel
from ribbon_server.models.hf_config import HfConfig, eos_token_ids, start_token_id
from ribbon_server.models.loader import load_weights
from ribbon_server.models.mxfp4 import unpacked
from ribbon_server.models.registry import families, family_of, unknown_family
from ribbon_server.models.share import share_of
from ribbon_server.models.spec import ModelSpec
from ribbon_server.models.stages import check_stages
from ribbon_server.telemetry import log

STORED_DTYPES = {"F32": DType.FLOAT32, "BF16": DType.BFLOAT16, "F16": DType.FLOAT16}


@dataclass(frozen=True)
class Model:
    """A loaded model and what it says of itself."""

    spec: ModelSpec | BridgedSpec
    decoder: CausalModel
    dtype: DType
    eos_token_ids: tuple[int, ...]
    world: World = SINGLE  # who holds the rest of it
    tokenizer_json: Path | None = None  # where the bytes of its tokens are, which grammars need
    start_token_id: int | None = (
        None  # a decoder's first token, which ends every prompt; absent where no encoder reads them
    )

    @property
    def is_bridged(self) -> bool:
        """Whether transformers' own model code runs, for want of a family."""
        return isinstance(self.spec, BridgedSpec)


@dataclass(frozen=True)
class Target:
    """As what and for whom weights are loaded."""

    dtype: torch.dtype
    kernels: Kernels
    device: torch.device
    world: World


def open_model(
    folder: Path, dtype: DType | None, kernels: Kernels, device: torch.device = CPU, world: World = SINGLE
) -> Model:
    """Loads a rank's share of the model in `folder` to `device`, all of it where the rank is alone; `dtype` None takes the
    checkpoint's, as the device computes it best.

    Raises:
        BadSetting: `folder` is no complete model directory.
        ModelNotSupported: No family builds its architecture and transformers' code cannot stand in, a setting of it is not
            supported, or it cannot be dealt out to so many ranks or cut into so many stages.
        WeightsMismatch: The weights are unreadable or do not fit the configuration.
    """
    if not folder.is_dir():
        raise BadSetting(
            f"model directory {folder} does not exist; give a directory with config.json and safetensors weights"
        )
    checkpoint = unpacked(SafetensorsCheckpoint(folder))
    chosen = _chosen_dtype(dtype, checkpoint, device)
    target = Target(TORCH_DTYPES[chosen], kernels, device, world)
    opened: tuple[ModelSpec | BridgedSpec, CausalModel]
    if checkpoint.config.architecture in families():
        opened = _native(checkpoint, target)
    else:
        opened = _bridged(folder, checkpoint.config, target)
    spec, decoder = opened
    ends = eos_token_ids(folder, checkpoint.config)
    tokenizer_json = folder / "tokenizer.json"
    tokens = tokenizer_json if tokenizer_json.is_file() else None
    has_encoder = isinstance(spec, ModelSpec) and spec.encoder is not None
    start = start_token_id(folder, checkpoint.config, spec.vocab_size) if has_encoder else None
    return Model(spec, decoder, chosen, ends, world, tokens, start)


def _native(checkpoint: Checkpoint, target: Target) -> tuple[ModelSpec, CausalModel]:
    family = family_of(checkpoint.config.architecture)
    spec = family.build(checkpoint.config)
    world = target.world
    check_stages(spec, world.stage.world_size)
    own, place = share_of(spec, world.tensor.rank), Place(world.stage, world.tensor.rank)
    weights = load_weights(spec, family.names, checkpoint, target.dtype, target.device, place)
    return spec, assemble(own, weights, target.kernels, world)


def _bridged(folder: Path, config: HfConfig, target: Target) -> tuple[BridgedSpec, CausalModel]:
    """For want of a family."""
    # Here, since transformers takes seconds to import.
    from ribbon_server.models.transformers_bridge import bridged_model

    try:
        if target.world.stage.world_size > 1:
            raise ModelNotSupported("it is not cut into stages; use `--pipeline-parallel-size` 1")
        if target.world.rank.world_size > 1:
            raise ModelNotSupported("it is not dealt out; use `--num-shard` 1")
        spec, decoder = bridged_model(folder, config, target.dtype, target.kernels, target.device)
    except ModelNotSupported as error:
        reason = f"{unknown_family(config.architecture)}, and not by transformers' own code either: {error}"
        raise ModelNotSupported(reason) from error
    told = f"`{spec.architecture}` has no family here: transformers' own code runs it, slower than a family would"
    log(logging.WARNING, told)
    return spec, decoder


def _chosen_dtype(wanted: DType | None, checkpoint: Checkpoint, device: torch.device) -> DType:
    stored = frozenset(map(checkpoint.dtype_name, checkpoint.names()))
    if device.type != "cpu":
        return wanted or stored_dtype(stored)
    return choose_dtype(wanted, stored, bfloat16_is_fast=computes_bfloat16())


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
