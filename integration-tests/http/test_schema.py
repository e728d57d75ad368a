"""The OpenAPI document against the server that serves it: what a fuzzer makes of it is never a fault, and the answers are as described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from asking import Serve
from load.client import exchange

# The schema has no ranges, so good and bad bodies by its account are not good and bad to the server.
UNFIT = "positive_data_acceptance,negative_data_rejection"
EXAMPLES = "50"
# Embeddings are documented only where they are served.
FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB", "--max-batch-prefill-tokens", "128", "--enable-embeddings")
KEY = "k3y-of-mine"  # the document asks for one, so that the server has to


@pytest.mark.slow
def test_a_fuzzer_with_the_document_finds_no_fault(serve: Serve, demo_model: Path, tmp_path: Path) -> None:
    served = serve(demo_model, *FLAGS, "--api-key", KEY)
    document = f"{served.base}/api-doc/openapi.json"
    program = Path(sys.executable).with_name("schemathesis")
    words = [
        program,
        "run",
        document,
        "--header",
        f"Authorization: Bearer {KEY}",
        "--exclude-checks",
        UNFIT,
        "--max-examples",
        EXAMPLES,
        "--phases",
        "examples,coverage,fuzzing",
    ]
    told = [
        *words,
        "--generation-deterministic",
        "--request-timeout",
        "60",
        "--no-color",
        "--report-dir",
        str(tmp_path),
    ]
    run = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert exchange(served.base, "GET", "/health").status == 200
