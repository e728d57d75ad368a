"""The life of a serving shard: load, listen, and leave when the launcher is gone. Wires rooms together; decides nothing."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch

from ribbon_server import _native
from ribbon_server.config import ServeConfig, keep_to_loopback
from ribbon_server.device import choose_rank_device
from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import Rank
from ribbon_server.distributed.single import SINGLE
from ribbon_server.layers.registry import kernels_for
from ribbon_server.lifeline import GRACE_SECONDS, Lifeline, leave_now
from ribbon_server.models.open import Model, open_model
from ribbon_server.service.health import Health
from ribbon_server.service.server import start_server
from ribbon_server.service.servicer import ShardServicer
from ribbon_server.telemetry import emit_event, log, phase

BACKSTOP = timedelta(hours=1)  # the router's step deadline ends a group that hangs long before


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
    rank = Rank(config.rank, config.world_size)
    device = choose_rank_device(config.device, rank)
    world = _world(config, rank, device)
    return open_model(config.model_path, config.dtype, kernels_for(device), device, world)


def _world(config: ServeConfig, rank: Rank, device: torch.device) -> World:
    """The ranks of the model, once all of them are there."""
    if rank.world_size == 1 or config.meeting_point is None:
        return SINGLE
    # Here, since not every build of torch has them, and one shard needs none of it.
    from ribbon_server.distributed.backend import Meeting

    meeting = Meeting(config.meeting_point, BACKSTOP, config.num_stages)
    if device.type == "cpu":
        from ribbon_server.distributed.gloo import GlooGroup

        return GlooGroup(rank, meeting)
    from ribbon_server.distributed.nccl import NcclGroup

    keep_to_loopback()
    torch.cuda.set_device(device)  # of this thread, the only one that computes
    return NcclGroup(rank, meeting, device)


def _use_threads(num_threads: int) -> None:
    """Sizes both pools alike; they take turns on the same cores."""
    torch.set_num_threads(num_threads)
    _native.set_num_threads(num_threads)
