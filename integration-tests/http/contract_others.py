"""The promises of all other routes: tokens, limits, probes, metrics, providers, documents (http-api.md §1, §9, §14)."""

from __future__ import annotations

from collections.abc import Iterator

from contract_rules import (
    CHAT,
    PROMPT,
    Rule,
    body,
    header,
    is_number,
    native_error,
    openai_error,
    plain_error,
    status,
    stream,
    without,
)

INFO_KEYS = {  # TGI's
    "model_id",
    "model_sha",
    "model_pipeline_tag",
    "max_concurrent_requests",
    "max_best_of",
    "max_stop_sequences",
    "max_input_tokens",
    "max_total_tokens",
    "validation_workers",
    "max_client_batch_size",
    "router",
    "version",
    "sha",
    "docker_label",
}
SHORT = {"max_new_tokens": 3}


def other_rules() -> Iterator[Rule]:
    """In the order of the contract."""
    yield from tokens()
    yield from facts()
    yield from providers()
    yield from edge()


def tokens() -> Iterator[Rule]:
    """`/tokenize`, `/chat_tokenize`."""
    text = "Héllo you"
    spans = body(
        lambda found: (
            all(set(token) == {"id", "text", "start", "stop"} for token in found)
            and found[-1]["stop"] == len(text.encode())
        )
    )
    yield Rule(14, "POST /tokenize", "answer", "a bare array with byte offsets", (spans,), {"inputs": text})
    cut = {"inputs": "a b c d", "parameters": {"truncate": 1}}
    yield Rule(14, "POST /tokenize", "truncate", "is ignored", (body(lambda found: len(found) > 2),), cut)
    rendered = body(
        lambda found: (
            set(found) == {"tokenize_response", "templated_text"}
            and PROMPT in found["templated_text"]
            and len(found["tokenize_response"]) > 2
        )
    )
    yield Rule(14, "POST /chat_tokenize", "answer", "tokens and rendered text", (rendered,), {"messages": CHAT})
    yield Rule(
        14, "POST /chat_tokenize", "messages", "empty: 422", native_error("validation", "messages"), {"messages": []}
    )


def facts() -> Iterator[Rule]:
    """What is served."""
    plain = (status(200), without("x-compute-type", "x-total-time"))
    yield Rule(8, "GET /info", "x-headers", "none", plain)
    for method, path in (("GET", "/v2"), ("GET", "/v2/health/live"), ("POST", "/v2/models/m/versions/1/infer")):
        yield Rule(1, f"{method} {path}", "path", "KServe is not built, as by default", (status(404),))
    yield Rule(14, "GET /info", "answer", "has TGI's keys", (body(lambda info: set(info) >= INFO_KEYS),))
    yield Rule(
        14, "GET /info", "router", "says TGI's name", (body(lambda info: info["router"] == "text-generation-router"),)
    )
    listed = body(
        lambda models: (
            models["object"] == "list"
            and models["data"][0]["object"] == "model"
            and models["data"][0]["id"] == models["data"][0]["owned_by"]
        )
    )
    yield Rule(14, "GET /v1/models", "answer", "one model", (listed,))
    for path in ("/", "/health", "/ping", "/live", "/ready"):
        for method in ("GET", "HEAD"):
            yield Rule(
                14,
                f"{method} {path}",
                "answer",
                "200 and empty",
                (status(200), lambda reply: reply.body == b"", header("content-length", lambda value: value == "0")),
            )
    for method in ("GET", "HEAD"):
        kind = header("content-type", lambda value: value.startswith("text/plain"))
        yield Rule(14, f"{method} /metrics", "answer", "Prometheus's text", (status(200), kind))
    yield Rule(14, "GET /metrics", "answer", "has TGI's names", (lambda reply: b"tgi_request_count" in reply.body,))
    yield Rule(1, "GET /docs/", "answer", "Swagger's page", (status(200), lambda reply: b"swagger-ui" in reply.body))
    everything = body(
        lambda document: (
            {"/generate", "/vertex", "/invocations", "/v1/completions", "/chat_tokenize", "/ping"}
            <= set(document["paths"])
        )
    )
    yield Rule(1, "GET /api-doc/openapi.json", "paths", "every route", (everything,))
    errors = body(lambda document: {"422", "424", "429"} <= set(document["paths"]["/generate"]["post"]["responses"]))
    yield Rule(1, "GET /api-doc/openapi.json", "responses", "every error", (errors,))


def providers() -> Iterator[Rule]:
    """`/invocations`, `/vertex`."""
    path = "POST /invocations"
    yield Rule(
        14,
        path,
        "inputs",
        "is /",
        (body(lambda answer: answer[0]["generated_text"].startswith(PROMPT)), header("x-total-time", is_number)),
        {"inputs": PROMPT, "parameters": SHORT},
    )
    yield Rule(
        14,
        path,
        "stream",
        "is / too",
        (stream(lambda seen: seen[-1]["generated_text"] is not None),),
        {"inputs": PROMPT, "parameters": SHORT, "stream": True},
    )
    yield Rule(
        14,
        path,
        "messages",
        "is chat",
        (body(lambda answer: answer["object"] == "chat.completion"),),
        {"messages": CHAT, "max_tokens": 3},
    )
    yield Rule(
        14,
        path,
        "prompt",
        "is completions",
        (body(lambda answer: answer["object"] == "text_completion"),),
        {"prompt": PROMPT, "max_tokens": 3},
    )
    yield Rule(14, path, "body", "none of the three: plain 422", plain_error(422), {"text": "a"})
    yield Rule(14, path, "inputs", "errors are native", native_error("validation", "inputs"), {"inputs": ""})
    yield Rule(14, path, "prompt", "errors are OpenAI's", openai_error("prompt"), {"prompt": ""})
    two = {"instances": [{"inputs": PROMPT, "parameters": SHORT}, {"messages": CHAT, "max_tokens": 3}]}
    predicted = body(
        lambda answer: (
            set(answer) == {"predictions"}
            and len(answer["predictions"]) == 2
            and all(isinstance(text, str) for text in answer["predictions"])
        )
    )
    yield Rule(14, "POST /vertex", "instances", "one prediction each", (predicted,), two)
    yield Rule(
        9,
        "POST /vertex",
        "instances",
        "none: its own error type",
        native_error("Input validation error"),
        {"instances": []},
    )
    ignored = {"instances": [{"inputs": PROMPT, "parameters": SHORT | {"temperature": -1, "top_p": 7}}]}
    yield Rule(
        14,
        "POST /vertex",
        "parameters",
        "others are ignored",
        (body(lambda answer: len(answer["predictions"]) == 1),),
        ignored,
    )
    yield Rule(
        14,
        "POST /vertex",
        "parameters",
        "the length counts",
        native_error("validation", "max_new_tokens"),
        {"instances": [{"inputs": "a", "parameters": {"max_new_tokens": 0}}]},
    )


def edge() -> Iterator[Rule]:
    """What surrounds every route."""
    named = {"x-request-id": "mine-1"}
    yield Rule(
        2,
        "GET /health",
        "x-request-id",
        "comes back",
        (header("x-request-id", lambda value: value == "mine-1"),),
        None,
        named,
    )
    yield Rule(
        2,
        "GET /health",
        "x-request-id",
        "is made where there is none",
        (header("x-request-id", lambda value: len(value) > 30),),
    )
    zipped = header("content-encoding", lambda value: value == "gzip")
    yield Rule(
        2,
        "GET /metrics",
        "accept-encoding",
        "gzip for whole answers",
        (status(200), zipped),
        None,
        {"accept-encoding": "gzip"},
    )
    plain = {"inputs": PROMPT, "parameters": SHORT}
    untouched = (stream(bool), lambda reply: "content-encoding" not in reply.headers)
    yield Rule(
        2,
        "POST /generate_stream",
        "accept-encoding",
        "streams are never compressed",
        untouched,
        plain,
        {"accept-encoding": "gzip"},
    )
    yield Rule(
        2,
        "POST /generate",
        "x-request-timeout",
        "no time: 422",
        native_error("validation", "X-Request-Timeout"),
        plain,
        {"x-request-timeout": "soon"},
    )
    traced = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    yield Rule(
        2,
        "POST /generate",
        "traceparent",
        "is taken",
        (body(lambda answer: "generated_text" in answer),),
        plain,
        traced,
    )
    yield Rule(
        2,
        "POST /generate",
        "traceparent",
        "nonsense is no error",
        (body(lambda answer: "generated_text" in answer),),
        plain,
        {"traceparent": "nonsense"},
    )
