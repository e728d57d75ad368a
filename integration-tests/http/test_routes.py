"""The routes around generation, through the whole path: probes, info, metrics, tokenize, headers, the root alias."""

from __future__ import annotations

from pathlib import Path

from contract_others import INFO_KEYS
from load.client import exchange
from load.metrics_text import metric, samples
from load.served import Served
from load.usage import wait_released
from model_tokenizer import Prompts

TIME_HEADERS = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")
MOST_METRIC_LINES = 1_500  # a scrape costs less than a millisecond with so many


def greedy(tokens: int, **parameters: object) -> dict[str, object]:
    """A native body."""
    return {"inputs": "hello there", "parameters": {"max_new_tokens": tokens, "details": True, **parameters}}


def test_probes_are_content(tiny_server: Served) -> None:
    assert [tiny_server.status(path) for path in ("/health", "/live", "/ready")] == [200, 200, 200]
    assert exchange(tiny_server.base, "GET", "/health").body == b""


def test_info_has_tgis_keys_and_the_resolved_limits(tiny_server: Served, tiny_model: Path) -> None:
    info = exchange(tiny_server.base, "GET", "/info").json()
    assert set(info) >= INFO_KEYS
    assert info["model_id"] == str(tiny_model)
    assert info["max_total_tokens"] <= 4_096
    assert info["max_input_tokens"] < info["max_total_tokens"]
    full = info["max_total_tokens"]
    fits = {"inputs": "a", "parameters": {"max_new_tokens": full - 2}}
    too_much = {"inputs": "a", "parameters": {"max_new_tokens": full - 1}}
    assert exchange(tiny_server.base, "POST", "/generate", too_much).status == 422
    assert exchange(tiny_server.base, "POST", "/tokenize", fits).status == 200


def test_models_lists_the_served_one(tiny_server: Served, tiny_model: Path) -> None:
    listed = exchange(tiny_server.base, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [str(tiny_model)]


def test_root_answers_with_a_list_of_the_same(tiny_server: Served) -> None:
    exchange(tiny_server.base, "POST", "/generate", greedy(6))  # from here on the prefix is cached: sums in one order
    single = exchange(tiny_server.base, "POST", "/generate", greedy(6)).json()
    listed = exchange(tiny_server.base, "POST", "/", greedy(6, return_full_text=False)).json()
    assert listed == [single]


def test_details_hold_every_token(tiny_server: Served) -> None:
    answer = exchange(tiny_server.base, "POST", "/generate", greedy(6, top_n_tokens=2, ignore_eos=True)).json()
    details = answer["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 6, None)
    assert len(details["tokens"]) == len(details["top_tokens"]) == 6
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert token["id"] == top[0]["id"]
        assert abs(token["logprob"] - top[0]["logprob"]) < 1e-4
    assert "".join(token["text"] for token in details["tokens"] if not token["special"]) == answer["generated_text"]


def test_headers_of_a_whole_answer(tiny_server: Served) -> None:
    reply = exchange(tiny_server.base, "POST", "/generate", greedy(6, ignore_eos=True))
    assert reply.headers["x-compute-characters"] == str(len("hello there"))
    assert reply.headers["x-generated-tokens"] == "6"
    assert int(reply.headers["x-prompt-tokens"]) > 1
    assert all(int(reply.headers[name]) >= 0 for name in TIME_HEADERS)
    assert float(reply.headers["x-compute-time"]) > 0


def test_tokenize_gives_what_the_model_sees(tiny_server: Served, tiny_model: Path) -> None:
    text = "hello wörld"
    tokens = exchange(tiny_server.base, "POST", "/tokenize", {"inputs": text}).json()
    assert [token["id"] for token in tokens] == Prompts(tiny_model).ids(text)
    assert all(set(token) == {"id", "text", "start", "stop"} for token in tokens)
    assert tokens[-1]["stop"] == len(text.encode())


def test_metrics_count_requests_and_are_few(tiny_server: Served) -> None:
    def count() -> float:
        found = dict.fromkeys(("tgi_request_count", "tgi_request_success"), 0.0)
        for name, _, value in samples(tiny_server.get("/metrics")):
            if name in found:
                found[name] += value
        assert found["tgi_request_count"] >= found["tgi_request_success"]
        return found["tgi_request_success"]

    before = count()
    assert exchange(tiny_server.base, "POST", "/generate", greedy(4)).status == 200
    assert count() == before + 1
    assert len(tiny_server.get("/metrics").splitlines()) < MOST_METRIC_LINES
    assert exchange(tiny_server.base, "HEAD", "/metrics").status == 200


def test_metrics_of_an_idle_server_hold_nothing(tiny_server: Served) -> None:
    wait_released(tiny_server)
    text = tiny_server.get("/metrics")
    assert metric(text, "ribbon_slots", 'state="free"') > 0
    assert metric(text, "ribbon_kv_pages", 'state="free"') > 0
    assert metric(text, "tgi_queue_size") == 0
