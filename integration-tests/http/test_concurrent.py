"""64 requests at once give what transformers gives one by one, and they really ran together."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import Serve
from load.served import Served
from models import make_model
from together import Wave, check_together

REQUESTS = 64
LEAST = Wave(fullest=48, mixed=8, early=0.9)


def test_64_at_once_equal_transformers_on_a_random_llama(tiny_server: Served, tiny_model: Path) -> None:
    check_together(tiny_server, tiny_model, "tiny random Llama", REQUESTS, LEAST)


def test_64_at_once_equal_transformers_on_the_bundled_model(demo_server: Served, demo_model: Path) -> None:
    check_together(demo_server, demo_model, "bundled model", REQUESTS, LEAST)


@pytest.mark.slow
def test_64_at_once_equal_transformers_with_wide_heads(serve: Serve) -> None:
    model = make_model("tiny-wide-heads", dtype="float32")
    check_together(
        serve(model, "--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", "512"),
        model,
        "one KV head",
        REQUESTS,
        LEAST,
    )
