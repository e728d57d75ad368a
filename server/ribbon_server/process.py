"""The life of a serving shard: load, listen, and leave when the launcher is gone. Wires rooms together; decides nothing."""

import logging
from concurrent.futures import ThreadPoolExecutor

import torch

from ribbon_server import _native
from ribbon_server.config import ServeConfig
from ribbon_server.device import choose_device
from ribbon_server.distributed.base import Group
from ribbon_server.distributed.sharding import Rank
from ribbon_server.distributed.single import SINGLE
from ribbon_server.errors import BadSetting
from ribbon_server.layers.registry import kernels_for
from ribbon_server.lifeline import GRACE_SECONDS, Lifeline, leave_now
from ribbon_server.models.open import Model, open_model
from ribbon_server.service.health import Health
from ribbon_server.service.server import start_server
from ribbon_server.service.servicer import ShardServicer
from ribbon_server.telemetry import emit_event, log, phase

BACKSTOP_SECONDS = 3600.0  # the router's step deadline ends a group that hangs long before


def run_shard(config: ServeConfig, num_threads: int, lifeline: Lifeline) -> None:
    """Serves until the lifeline says to leave; then the process is gone.

    Raises:
        ValueError: The operator's mistakes, each with one clear line.
    """
    compute = ThreadPoolExecutor(1, "compute", initializer=_use_threads, initargs=(num_threads,))
    with phase("load_weights"):
        model = compute.submit(_load, config).result()
    health = Health()
    server = start_server(ShardServicer(config, model, compute, health), health, config.uds_path)
    emit_event("listening")
    facts = {"model_id": config.model_id, "threads": num_threads, "cpu_features": _native.cpu_features()}
    log(logging.INFO, f"serving {config.model_id} in {model.dtype.value}", **facts)
    lifeline.leave.wait()
    server.stop(GRACE_SECONDS).wait(2 * GRACE_SECONDS)
    leave_now()


def _load(config: ServeConfig) -> Model:
    device = choose_device(config.device)
    return open_model(config.model_path, config.dtype, kernels_for(device), device, _group(config, device))


def _group(config: ServeConfig, device: torch.device) -> Group:
    """The ranks of the model, once all of them are there."""
    if config.world_size == 1 or config.meeting_point is None:
        return SINGLE
    if device.type != "cpu":
        raise BadSetting(
            f"`--world-size` is {config.world_size}: several shards run on the CPU only so far; use 1, or `--device` cpu"
        )
    # Here, since not every build of torch has it, and one shard needs none of it.
    from ribbon_server.distributed.gloo import GlooGroup

    return GlooGroup(Rank(config.rank, config.world_size), config.meeting_point, BACKSTOP_SECONDS)


def _use_threads(num_threads: int) -> None:
    """Sizes both pools alike; they take turns on the same cores."""
    torch.set_num_threads(num_threads)
    _native.set_num_threads(num_threads)
