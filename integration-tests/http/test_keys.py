"""Keys through the whole path: where they are asked for, where they are kept, and where they must never appear."""

from __future__ import annotations

from pathlib import Path

from asking import Serve
from load.client import exchange
from load.served import Served

FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB", "--max-batch-prefill-tokens", "128")
KEY = "k3y-of-mine"
BODY = {"inputs": "hello", "parameters": {"max_new_tokens": 2}}


def status(served: Served, path: str, key: str | None, method: str = "POST") -> int:
    """What a request with this key is answered."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return exchange(served.base, method, path, BODY if method == "POST" else None, headers).status


def test_a_key_opens_and_is_kept_where_nobody_else_reads_it(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS, "--api-key", f"{KEY},another")
    assert [status(served, "/generate", key) for key in (None, "wrong", KEY.upper(), KEY, "another")] == [
        401, 401, 401, 200, 200,
    ]  # fmt: skip
    assert [status(served, path, None, "GET") for path in ("/health", "/info", "/metrics", "/v1/models")] == [200] * 4
    assert [status(served, path, None) for path in ("/", "/tokenize", "/v1/completions", "/vertex", "/nowhere")] == [
        401
    ] * 5
    assert KEY not in served.log_tail()
    assert KEY not in " ".join(served.router().cmdline() + served.shard().cmdline())
    assert served.router().environ()["API_KEY"] == f"{KEY},another"
    assert "API_KEY" not in served.shard().environ()
