"""Load generators that other people wrote: no request fails, and every answer has the length that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asked import Truth
from environments import python_of
from observed import Observed, Record, recorded, run

pytestmark = pytest.mark.clients

REQUESTS = 4
PROMPT_TOKENS = 32
OUTPUT_TOKENS = 12


def guidellm(truth: Truth, model: Path, home: Path, route: str) -> dict[str, Any]:
    """The report of its one benchmark: chats or completions, one after the other."""
    python = python_of("guidellm")
    report = home / f"{route}.json"
    backend = f"kind=openai_http,target={truth.asked.base},model={truth.asked.model},request_format=/v1/{route}"
    data = f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"
    options = {
        "--backend": backend,
        "--profile": "kind=synchronous",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--tokenizer": f"kind=hf_auto,model={model}",
        "--data": data,
        "--output": f"kind=json,path={report}",
    }
    words = [word for option in options.items() for word in option]
    run([python.parent / "guidellm", "run", *words, "--disable-console-interactive"], home, HF_HUB_OFFLINE="1")
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    return dict(benchmark)


def test_guidellm(truth: Truth, demo_model: Path, tmp_path: Path, record_property: Record) -> None:
    routes = ("chat/completions", "completions")
    seen = {route: {"saw": guidellm(truth, demo_model, tmp_path, route)} for route in routes}
    version = version_of("guidellm", tmp_path)
    with recorded(Observed("guidellm", version, seen), record_property) as observed:
        for route in routes:
            requests = observed[route]["requests"]
            assert [len(requests[kind]) for kind in ("successful", "errored", "incomplete")] == [REQUESTS, 0, 0]
            counts = [request["output_metrics"]["text_tokens"] for request in requests["successful"]]
            assert counts == [OUTPUT_TOKENS] * REQUESTS


def aiperf(truth: Truth, model: Path, home: Path, endpoint: str) -> dict[str, Any]:
    """What one profile counted: its own figures, and the server's of the same time, which it scrapes."""
    python = python_of("aiperf")
    folder = home / endpoint
    options = {
        "--model": truth.asked.model,
        "--url": truth.asked.base,
        "--endpoint-type": endpoint,
        "--tokenizer": str(model),
        "--request-count": str(REQUESTS),
        "--concurrency": "2",
        "--synthetic-input-tokens-mean": str(PROMPT_TOKENS),
        "--output-tokens-mean": str(OUTPUT_TOKENS),
        "--extra-inputs": json.dumps({"ignore_eos": True}),
        "--ui": "none",
        "--artifact-dir": str(folder),
    }
    words = [word for option in options.items() for word in option]
    # Without HF_HUB_OFFLINE: with it this tool takes a folder's path for a Hub id, and refuses it.
    run([python.parent / "aiperf", "profile", "--streaming", *words], home)
    figures = json.loads((folder / "profile_export_aiperf.json").read_text())
    scraped = json.loads((folder / "server_metrics_export.json").read_text())["metrics"]
    return {"figures": figures, "generated": scraped["tgi_request_generated_tokens"]["series"][0]["stats"]}


def test_aiperf(truth: Truth, demo_model: Path, tmp_path: Path, record_property: Record) -> None:
    endpoints = ("chat", "completions", "huggingface-generate")
    seen = {endpoint: {"saw": aiperf(truth, demo_model, tmp_path, endpoint)} for endpoint in endpoints}
    version = version_of("aiperf", tmp_path)
    with recorded(Observed("aiperf", version, seen), record_property) as observed:
        for endpoint in endpoints:
            figures, generated = observed[endpoint]["figures"], observed[endpoint]["generated"]
            assert figures["request_count"]["avg"] == REQUESTS
            assert figures["request_error_rate"]["avg"] == 0
            assert figures["error_summary"] == []
            assert (generated["count"], generated["sum"]) == (REQUESTS, REQUESTS * OUTPUT_TOKENS)
            if endpoint != "huggingface-generate":  # TGI's streams say no usage that this tool reads
                usage = figures["usage_completion_tokens"]
                assert usage["min"] == usage["max"] == OUTPUT_TOKENS


def version_of(package: str, home: Path) -> str:
    """What is installed in the environment that is named after it."""
    words = f"from importlib.metadata import version; print(version({package!r}))"
    return run([python_of(package), "-c", words], home).strip()
