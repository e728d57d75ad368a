"""The bundled model on two shards: tokens as on one, requests that run together, and a server that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

from asking import Serve
from load.served import Served
from together import Wave, check_together

REQUESTS = 32
LEAST = Wave(fullest=24, mixed=4, early=0.0)  # of rows and mixed steps; how early plans come is for one shard to show
FLAGS = ("--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", "512")


def test_32_at_once_on_two_shards_equal_transformers(serve: Serve, demo_model: Path, demo_server: Served) -> None:
    sharded: Served = serve(None, *FLAGS, env={"NUM_SHARD": "2"})
    check_together(sharded, demo_model, "bundled model on two shards", REQUESTS, LEAST)
    info, of_one = (json.loads(served.get("/info")) for served in (sharded, demo_server))
    assert sharded.shard(0).pid != sharded.shard(1).pid
    assert (info["num_shard"], of_one["num_shard"]) == (2, 1)
    assert of_one["model_code"] == "ribbon"
    assert info["max_total_tokens"] == of_one["max_total_tokens"]
    assert sharded.stop() == 0
