"""Every promise of the contract is kept, and none is so weak that a server which is always content would keep it too."""

from __future__ import annotations

import pytest
from contract_differences import DIFFERENCES, ELSEWHERE, exists, listed
from contract_rules import CHAT, PROMPT, Rule, replies, rules
from load.client import Json, Reply, exchange
from load.served import Served

RULES = list(rules())

# Fields that http-api.md and the issue name for each route; one without a rule is a hole.
NATIVE = (
    "best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample max_new_tokens return_full_text "
    "stop truncate watermark details decoder_input_details seed top_n_tokens grammar adapter_id inputs parameters"
)
OPENAI = (
    "model max_tokens max_completion_tokens temperature top_p frequency_penalty presence_penalty seed stop stream n user "
    "logit_bias logprobs tools response_format top_k min_p typical_p repetition_penalty ignore_eos min_tokens stop_token_ids "
    "priority cache_salt service_tier include_usage continuous_usage_stats stream_options usage finish_reason id object echo "
    "parallel_tool_calls chat_template_kwargs prompt_logprobs use_beam_search length_penalty early_stopping body [DONE] x-prompt-tokens x-total-time"
)
NEEDED: dict[str, str] = {
    "POST /generate": NATIVE
    + " x-compute-time x-compute-type x-total-time x-validation-time x-queue-time x-inference-time x-time-per-token"
    + " x-prompt-tokens x-generated-tokens x-compute-characters x-headers content-type body"
    + " details.tokens details.prefill details.top_tokens details.best_of_sequences details.finish_reason",
    "POST /generate_stream": "best_of decoder_input_details framing index token generated_text details top_tokens [DONE] headers errors",
    "POST /": "inputs answer return_full_text stream framing",
    "POST /v1/chat/completions": OPENAI
    + " messages top_logprobs delta.role message x-compute-time tool_choice tool_prompt documents continue_final_message"
    + " add_generation_prompt",
    "POST /v1/completions": OPENAI + " prompt suffix best_of x-compute-time",
    "POST /tokenize": "answer truncate body content-type",
    "POST /chat_tokenize": "answer messages body",
    "POST /invocations": "inputs messages prompt stream body",
    "POST /vertex": "instances parameters body",
    "GET /info": "answer router vary x-headers",
    "GET /v1/models": "answer",
    "GET /health": "answer cors x-request-id",
    "GET /ping": "answer",
    "GET /": "answer",
    "GET /metrics": "answer accept-encoding",
    "HEAD /metrics": "answer",
    "GET /docs/": "answer",
    "GET /api-doc/openapi.json": "paths responses",
    "OPTIONS /generate": "preflight",
}


@pytest.fixture(scope="module")
def answers(demo_server: Served) -> dict[str, Reply]:
    """What the server says to every rule's request."""
    return replies(demo_server.base, RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_promise_is_kept(answers: dict[str, Reply], rule: Rule) -> None:
    complaint = rule.complaint(answers[rule.name])
    assert complaint is None, f"{rule.name}: {complaint}"


@pytest.mark.parametrize(
    ("route", "tokenizing", "body"),
    [
        ("/v1/completions", "/tokenize", {"inputs": PROMPT}),
        ("/v1/chat/completions", "/chat_tokenize", {"messages": CHAT}),
    ],
)
def test_usage_and_headers_count_the_tokens_of_the_prompt(
    demo_server: Served, answers: dict[str, Reply], route: str, tokenizing: str, body: Json
) -> None:
    [rule] = [rule for rule in RULES if rule.route == f"POST {route}" and rule.says == "says what the headers say"]
    tokenized = exchange(demo_server.base, "POST", tokenizing, body).json()
    tokens = tokenized if isinstance(tokenized, list) else tokenized["tokenize_response"]
    answer = answers[rule.name]
    counted = (answer.json()["usage"]["prompt_tokens"], int(answer.headers["x-prompt-tokens"]))
    assert counted == (len(tokens), len(tokens))


def test_no_promise_is_kept_by_a_server_that_is_always_content(stub: str) -> None:
    said = replies(stub, RULES)
    holes = [rule.name for rule in RULES if rule.complaint(said[rule.name]) is None]
    assert holes == []


def test_every_field_has_a_rule_and_no_rule_is_there_twice() -> None:
    ruled = {(rule.route, rule.field) for rule in RULES}
    needed = {(route, field) for route, fields in NEEDED.items() for field in fields.split()}
    assert needed - ruled == set()
    names = [rule.name for rule in RULES]
    assert sorted(names) == sorted(set(names))


def test_what_is_proven_elsewhere_is_proven_there() -> None:
    proofs = [proof for _, _, proof in ELSEWHERE] + [proof for proof in DIFFERENCES.values() if "::" in proof]
    assert [proof for proof in proofs if not exists(proof)] == []


def test_differences_are_proven_by_rules_that_exist() -> None:
    names = [rule.name for rule in RULES]
    wanted = [proof for proof in DIFFERENCES.values() if "::" not in proof]
    assert [proof for proof in wanted if not any(proof in name for name in names)] == []


@pytest.mark.slow  # `make contract` asks it too; who adds a line may prove it here afterwards
def test_the_differences_are_exactly_those_listed() -> None:
    lines = listed()
    proven = {line: [start for start in DIFFERENCES if line.startswith(start)] for line in lines}
    assert {line: starts for line, starts in proven.items() if len(starts) != 1} == {}
    assert [start for start in DIFFERENCES if not any(line.startswith(start) for line in lines)] == []
