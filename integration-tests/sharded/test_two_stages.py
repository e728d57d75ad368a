"""A model on two stages of two ranks each: tokens as on one shard, and a server that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import Serve
from load.served import Served
from margin import Reference
from together import send_wave

REQUESTS = 16
FLAGS = ("--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", "512")


@pytest.mark.slow  # the loss of a stage (faults/test_recovery.py) judges what two stages say in every run
def test_16_at_once_on_two_stages_of_two_equal_transformers(serve: Serve, tiny_model: Path) -> None:
    served: Served = serve(tiny_model, *FLAGS, "--num-shard", "2", env={"PIPELINE_PARALLEL_SIZE": "2"})
    runs, _ = send_wave(served, tiny_model, REQUESTS, seed=1)
    Reference(tiny_model).judge(runs).check("tiny model on two stages of two")
    assert json.loads(served.get("/info"))["num_shard"] == 4
    assert len({served.shard(rank).pid for rank in range(4)}) == 4
    assert served.stop() == 0
