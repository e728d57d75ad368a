"""The group over NCCL, with as many ranks as one device can hold: one. Two ranks are tried by `make gpu-check`."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from distributed.ranks import collectives

from ribbon_server.config import keep_to_loopback
from ribbon_server.distributed.backend import Meeting
from ribbon_server.distributed.sharding import Rank


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no device")
def test_one_rank_makes_every_call(tmp_path: Path) -> None:
    from ribbon_server.distributed.nccl import NcclGroup

    keep_to_loopback()
    device = torch.device("cuda", 0)
    group = NcclGroup(Rank(0, 1), Meeting(tmp_path / "meeting", timedelta(seconds=120)), device)
    results = collectives(group, device)
    assert results["sum bfloat16"].tolist() == [[1.0] * 3] * 2
    assert results["joined"].tolist() == [[10, 11], [12, 13]]
    assert results["tokens"].tolist() == [[1, 7]]
    assert results["least"] == 5
