"""One rank of a test group, as a process: what it computes over the group, written as tensors to a file."""

import os
import sys
import threading
from datetime import timedelta
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ribbon_server.device import CPU
from ribbon_server.distributed.backend import Meeting
from ribbon_server.distributed.base import Group
from ribbon_server.distributed.gloo import LOOPBACK, GlooGroup
from ribbon_server.distributed.sharding import ALONE, Place, Rank
from ribbon_server.errors import RankLost
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.loader import load_weights
from ribbon_server.models.registry import family_of

TIMEOUT = timedelta(seconds=200)  # a busy machine may start one rank long after the other


def collectives(group: Group, device: torch.device = CPU) -> dict[str, torch.Tensor]:
    """Every call once, on what only this rank knows; the tokens come from the host."""
    own = float(group.rank.index + 1)
    results = {}
    for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16, "int32": torch.int32}.items():
        results[f"sum {name}"] = torch.full((2, 3), own, device=device).to(dtype)
        group.sum(results[f"sum {name}"])
    results["joined"] = group.join(torch.arange(4.0, device=device).reshape(2, 2) + 10 * own)
    results["tokens"] = torch.tensor([[int(own), 7]], dtype=torch.int32)
    group.broadcast(results["tokens"], source=group.rank.world_size - 1)
    results["least"] = torch.tensor(group.least(group.rank.index + 5))
    return results


def feed_forward(group: Group, model: Path) -> dict[str, torch.Tensor]:
    """A feed-forward part, output projection and logits of a model whose weights are dealt out."""
    checkpoint = SafetensorsCheckpoint(model)
    family = family_of(checkpoint.config.architecture)
    weights = load_weights(
        family.build(checkpoint.config), family.names, checkpoint, torch.float32, CPU, Place(ALONE, group.rank)
    )
    x = torch.randn((5, weights["final_norm"].numel()), generator=torch.Generator().manual_seed(3))
    gate, up = F.linear(x, weights["layers.0.gate_up"]).chunk(2, dim=-1)
    down = F.linear(F.silu(gate) * up, weights["layers.0.down"])
    group.sum(down)
    return {"down": down, "logits": group.join(F.linear(down, weights["head"]))}


def listens_on_loopback_alone() -> bool:
    """Whether nobody on another machine could reach this rank."""
    import psutil  # here, since a bare machine with a device lacks it

    found = [entry for entry in psutil.Process().net_connections() if entry.status == psutil.CONN_LISTEN]
    return bool(found) and all(entry.laddr.ip == LOOPBACK for entry in found)


def notices(group: Group) -> bool:
    """Whether a call fails clearly while another rank, which never answers it, is killed."""
    try:
        group.sum(torch.ones(1))
    except RankLost:
        return True
    return False


def main() -> None:
    """Runs as one rank of two: RANK DIRECTORY MODEL. Writes RANK.safetensors there; then rank 1 waits to be killed."""
    torch.set_num_threads(1)
    rank, folder = Rank(int(sys.argv[1]), 2), Path(sys.argv[2])
    group = GlooGroup(rank, Meeting(folder / "meeting", TIMEOUT))
    results = (
        {"is_private": torch.tensor(listens_on_loopback_alone())}
        | collectives(group)
        | feed_forward(group, Path(sys.argv[3]))
    )
    save_file({name: value.contiguous() for name, value in results.items()}, folder / f"{rank.index}.partial")
    (folder / f"{rank.index}.partial").rename(folder / f"{rank.index}.safetensors")
    if rank.index == 1:
        threading.Event().wait()
    os._exit(0 if notices(group) else 1)  # as a shard leaves: gloo may not get away from a lost rank in good order


if __name__ == "__main__":
    main()
