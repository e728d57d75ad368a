"""Where each difference from TGI is proven, and each promise that needs another server than the table's. Knows names of tests; runs none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "reference" / "differences-from-tgi.md"
HTTP, TEXT, SCHEDULER = "router/http/src/tests", "router/text/src", "router/scheduler/src"
TESTS = "integration-tests"

# The beginning of each line of the document, and its proof: `file::test`, or part of the name of a rule.
DIFFERENCES = {
    "A stream's headers go out": f"{HTTP}/streams.rs::headers_wait_for_the_first_token_but_not_longer_than_the_keep_alive",
    "`max_new_tokens` is exact": "max_new_tokens: is exact: 7",
    "The text ends right after the stop string": f"{HTTP}/native.rs::the_text_ends_with_the_stop_string_cut_right_after_it",
    "On the last allowed token": f"{HTTP}/native.rs::length_wins_on_the_last_allowed_token",
    "The texts of a stream's tokens": f"{HTTP}/streams.rs::what_the_end_token_cuts_shows_with_the_token_that_began_it",
    "Stop strings are found across": f"{TEXT}/stop_match.rs::a_stop_string_across_pieces_is_found",
    "`stop` may be one string; `null`": "/generate stop: 'a' is taken",
    "An empty stop string is refused": "/generate stop: [''] is 422 by name",
    "Unknown fields are refused": "/generate temprature: unknown",
    "Not in this version, refused by name with 422: `adapter_id`": "adapter_id: 'nobody' is 422 by name",
    "`decoder_input_details` needs no flag": "decoder_input_details: shows the details, with the prompt scored",
    "The watermark's green lists": f"{TESTS}/http/test_details.py::test_a_watermarked_greedy_answer_takes_the_highest_with_the_green_bonus",
    "`frequency_penalty` counts the request's own": "server/tests/sampling/test_processors.py::test_frequency_is_relative_to_the_history",
    "`best_of` runs share the prompt": f"{TESTS}/sharing/test_prefixes.py::test_forks_compute_their_prompt_once",
    "`stream` on `/generate`": "/generate stream: against the route is 422",
    "More parameters: `min_p`, `ignore_eos`": "/generate min_p: 0.1 is taken",
    "An unknown field is answered": f"{HTTP}/fields.rs::an_unknown_field_is_refused_with_the_nearest_name",
    "`min_tokens` also holds back": f"{HTTP}/native.rs::min_tokens_hold_back_stop_strings",
    "A temperature below 0.0001": f"{HTTP}/native.rs::a_temperature_near_zero_is_greedy",
    "Seeds give the same tokens": f"{TESTS}/http/test_seeds.py::test_alone_batched_and_after_a_restart_give_the_same_tokens",
    "429 and 503 carry": f"{HTTP}/streams.rs::a_full_house_says_when_to_come_back",
    "The queue has an order": f"{SCHEDULER}/queue.rs::a_lower_priority_number_goes_first_but_never_for_ever",
    "429 also when too many": f"{SCHEDULER}/scheduler/tests/queueing.rs::waiting_prompt_tokens_are_bounded_but_one_request_always_fits",
    "The header `X-Request-Timeout`": f"{TESTS}/http/test_deadlines.py::test_a_running_request_ends_at_its_deadline",
    "A body that is not complete": f"{HTTP}/callers.rs::a_body_that_never_ends_is_given_up",
    "While no shard has been ready": f"{HTTP}/lifecycle.rs::before_the_first_shard_requests_are_told_to_come_back",
    "While a shard restarts": f"{TESTS}/faults/test_recovery.py::test_32_streams_survive_the_loss_of_the_shard",
    "One request that fails": f"{SCHEDULER}/scheduler/tests.rs::a_bad_row_ends_its_sequence_and_nobody_else",
    "`/health` does not depend on load": f"{HTTP}/lifecycle.rs::probes_follow_the_engine",
    "Errors are OpenAI's objects": "/v1/completions temperature: -1, streamed, is 422 by name",
    "Every answer has an `id`": "/v1/chat/completions id: is real",
    "The text ends before the stop string": "/v1/completions stop: the text ends before it",
    "`finish_reason` is `stop` for the end": "/v1/completions finish_reason: stop for the end token",
    "A chat stream names the `role`": "delta.role: in the first chunk only",
    "`presence_penalty` and `frequency_penalty`": f"{HTTP}/openai.rs::parameters_reach_the_engine",
    "`model` never selects an adapter": "/v1/completions model: is echoed",
    "`stop` may be a string, ": "/v1/completions seed: -1 is taken",
    "`n` gives that many choices": "/v1/completions n: 2 is taken",
    "`use_beam_search` searches": f"{TESTS}/http/test_beams.py::test_searches_equal_transformers_on_a_random_llama",
    "`usage` has `prompt_tokens_details": f"{TESTS}/sharing/test_prefixes.py::test_the_same_prompt_again_is_known_but_for_its_last_token",
    "`user` and the API key": f"{HTTP}/callers.rs::tenants_are_told_apart_without_their_keys",
    "Accepted and without effect": "/v1/chat/completions service_tier: 'auto' is taken",
    "Not in this version, refused by name with 422: `suffix`": "messages: an image, which no model here reads",
    "Completions have `echo`": "/v1/completions echo: with logprobs, the prompt is scored",
    "The prompt's scores can be had alone": "/v1/completions max_tokens: 0 with echo",
    "New: `/v1/embeddings`": f"{TESTS}/http/test_embeddings.py::test_texts_and_ids_have_the_mean_of_transformers_states_whatever_is_cached",
    "`logit_bias` is OpenAI's map": "/v1/completions logit_bias: is applied",
    "`top_logprobs` needs": "top_logprobs: needs logprobs",
    "More parameters: `top_k`": "/v1/completions top_k: 5 is taken",
    "`prompt` may be token ids": "prompt: [[5, 6], [7]]: 2 choices in order",
    "A completions stream sends the usage": "/v1/completions usage: with a stream's last chunk",
    "Unknown paths and methods": "path: unknown under /v1: JSON 404",
    "`/vertex` answers errors": f"{HTTP}/providers.rs::vertex_refuses_by_the_place_in_the_list",
    "`/invocations` answers an error": "/invocations prompt: errors are OpenAI's",
    "`/docs` and `/api-doc/openapi.json`": f"{HTTP}/providers.rs::the_document_has_every_route_and_its_errors",
    "`--api-key` may name several": f"{TESTS}/http/test_keys.py::test_a_key_opens_and_is_kept_where_nobody_else_reads_it",
    "CORS also allows": "preflight: allows authorization",
    "Every answer has an `x-request-id`": "x-request-id: comes back",
    "Whole answers are gzipped": "accept-encoding: streams are never compressed",
    "A request's head may have": "router/bin/src/serving.rs::a_head_may_be_long_but_not_endless",
    "`/info` has `num_shard`": f"{TESTS}/sharded/test_two_shards.py::test_32_at_once_on_two_shards_equal_transformers",
    "`response_format` takes OpenAI's forms": f"{TESTS}/http/test_grammar.py::test_every_openai_form_is_followed",
    "A JSON schema needs no": f"{HTTP}/grammar.rs::what_cannot_be_enforced_is_422_with_the_field_and_the_keyword",
    "In `grammar` and `response_format` a schema": f"{HTTP}/grammar.rs::properties_without_a_type_mean_an_object",
    "A regular expression is checked": "/generate grammar: {'type': 'regex', 'value': 'a('} is 422 by name",
    "Grammars, of at most 256 KiB": f"{TESTS}/http/test_grammar_adversarial.py::test_no_grammar_hurts_anybody_else",
    "A finished answer follows": f"{TESTS}/http/test_grammar.py::test_the_grammar_wins_over_min_tokens_and_ignore_eos",
    "With `tool_choice` that is": f"{TESTS}/http/test_required_calls.py::test_the_bundled_model_calls_what_it_has_to",
    "A grammar and tools exclude": f"{TESTS}/http/test_required_calls.py::test_a_grammar_and_tools_exclude_each_other",
    "A model may think before": f"{TESTS}/http/test_required_calls.py::test_a_model_that_thinks_calls_behind_its_thought",
    "Hugging Face's settings": f"{TEXT}/chat_template/tests.rs::block_tags_take_their_line_with_them",
    "`chat_template.jinja` comes before": f"{TEXT}/chat_template/sources.rs::a_file_of_its_own_comes_first_then_the_json_then_the_tokenizers_settings",
    "Messages reach the template as sent": f"{TEXT}/chat_template/messages.rs::absent_fields_parts_and_reasoning",
    "A `refusal` without content": f"{HTTP}/openai.rs::a_history_of_openai_is_taken_as_its_sdk_sends_it",
    "`tool_use` of named templates": f"{TEXT}/chat_template/sources.rs::named_templates_need_a_default",
    "`continue_final_message` and": f"{HTTP}/tools.rs::a_prompt_ends_as_asked",
    "Special tokens in what users": f"{HTTP}/tools.rs::control_tokens_in_what_users_say_are_only_text",
    "Rendering is bounded": f"{TEXT}/chat_template/tests.rs::failures_name_their_line_and_loops_end",
    "Tools go to the template": f"{TEXT}/tools/tests.rs::every_format_is_read",
    "A model whose template has no tools": f"{HTTP}/tools.rs::a_model_without_tools_is_told_in_the_last_message",
    "Several calls at once": f"{TEXT}/tools/tests.rs::one_call_is_the_last_where_only_one_may_be",
    "`finish_reason` is `tool_calls`": f"{HTTP}/tools.rs::a_call_that_is_cut_says_length_and_one_that_must_be_alone_ends_the_answer",
    "A name that is none of the tools": f"{TEXT}/tools/tests.rs::every_format_is_read",
    "What a model thinks": f"{HTTP}/tools.rs::thoughts_are_split_off_and_counted",
    "`tgi_request_count` counts each": f"{HTTP}/lifecycle.rs::each_request_is_counted_once",
    "`tgi_request_failure` has more labels": f"{HTTP}/docs.rs::the_page_has_the_table",
    "`tgi_request_max_new_tokens` is": f"{HTTP}/lifecycle.rs::each_request_is_counted_once",
    "`tgi_request_skipped_tokens` is": f"{HTTP}/plumbing.rs::metrics_answer_get_and_head_and_every_name_is_described",
    "Token histograms have": f"{HTTP}/plumbing.rs::metrics_answer_get_and_head_and_every_name_is_described",
    "Request names are exposed": f"{HTTP}/plumbing.rs::metrics_answer_get_and_head_and_every_name_is_described",
    "New: `ribbon_time_to_first": f"{HTTP}/lifecycle.rs::each_request_is_counted_once",
    "`--max-batch-size` is": "launcher/src/plan/tests.rs::flags_of_tgi_without_effect_are_said_to_be",
    "SIGTERM: `/ready` says 503": f"{TESTS}/deploy/test_drain.py::test_a_leaving_replica_is_not_ready_but_serves_late_requests",
    "A router that does not answer": "launcher/src/pulse.rs::a_router_that_never_answers_is_dead_after_the_timeout",
    "`PREFIX_CACHING`": "launcher/src/plan/tests.rs::each_flag_reaches_its_process",
    "Of a Hub model": "server/tests/download/test_slow_tokenizer.py::test_a_tokenizer_that_is_code_is_refused_and_its_code_never_run",
    "`GET /debug/ribbons`": f"{HTTP}/plumbing.rs::the_kv_memory_is_shown_only_where_the_operator_asked_for_it",
}  # fmt: skip

# Promises that need a server in another state, or many requests: the section, what is promised, and its test.
ELSEWHERE = [
    (2, "keys: closed and open routes, 401 and empty", f"{HTTP}/keys.rs::every_route_but_the_public_ones_is_closed_without_a_key"),
    (2, "a body above --payload-limit is 413", f"{HTTP}/plumbing.rs::a_body_may_be_as_large_as_the_limit"),
    (2, "CORS: origins named by the operator", f"{HTTP}/keys.rs::the_operator_may_name_the_origins"),
    (2, "traceparent goes on to the engine", f"{HTTP}/plumbing.rs::a_trace_context_goes_on_to_the_engine"),
    (2, "SIGINT and SIGTERM finish what runs", f"{TESTS}/launcher/test_real_processes.py::test_ctrl_c_lets_running_requests_finish_and_refuses_new_ones"),
    (2, "a hostname that is no address is replaced", "launcher/src/plan/tests.rs::a_container_name_in_the_environment_is_replaced_with_a_warning"),
    (3, "every parameter reaches the engine", f"{HTTP}/native.rs::parameters_reach_the_engine"),
    (4, "no permit: 429 before all else", f"{HTTP}/streams.rs::overload_is_noticed_before_tokenizing"),
    (4, "a full house: 429, and what runs goes on", f"{TESTS}/faults/test_limits.py::test_a_full_house_answers_429_and_finishes_what_it_has"),
    (6, "best_of: the likeliest by mean logprob", f"{HTTP}/choices.rs::native_best_of_draws_a_seed_per_run_and_shows_the_losers"),
    (6, "prefill of every run", f"{HTTP}/details.rs::every_run_of_best_of_shows_the_prompt"),
    (7, "keep-alive comments in silence", f"{HTTP}/streams.rs::comments_come_only_in_silence"),
    (7, "an error after the first token is the last event", f"{HTTP}/streams.rs::an_error_after_the_first_token_is_the_last_event"),
    (7, "a client that leaves ends its request", f"{TESTS}/faults/test_cancel.py::test_200_cancelled_requests_leave_no_slot_and_no_page"),
    (9, "template_error", f"{HTTP}/bad_input.rs::every_bad_body_has_its_answer"),
    (9, "424 generation", f"{TESTS}/faults/test_recovery.py::test_a_request_that_kills_the_shard_each_time_ends_alone"),
    (9, "incomplete_generation", f"{HTTP}/streams.rs::tokens_that_end_too_early_are_an_error"),
    (9, "503 healthcheck", f"{HTTP}/lifecycle.rs::probes_follow_the_engine"),
    (11, "templates render as transformers renders them", f"{TEXT}/chat_template/parity.rs::every_template_renders_as_transformers_renders_it"),
    (12, "calls, whole and streamed", f"{TESTS}/http/test_tools.py::test_a_streamed_call_is_the_whole_one"),
    (14, "/chat_tokenize counts as a request", f"{HTTP}/providers.rs::a_conversation_is_shown_as_the_model_would_read_it"),
    (14, "/vertex samples whatever it is told", f"{HTTP}/providers.rs::vertex_predicts_for_each_instance_in_order"),
    (14, "/info before the first shard", f"{HTTP}/lifecycle.rs::before_the_first_shard_requests_are_told_to_come_back"),
]  # fmt: skip


def listed() -> list[str]:
    """The lines of the document, each whole."""
    return [
        " ".join(item.split()) for item in re.findall(r"^\* (.*?)(?=^\* |^#|\Z)", DOCUMENT.read_text(), re.M | re.S)
    ]


def exists(proof: str) -> bool:
    """Whether a test `file::name` is there."""
    file, _, name = proof.partition("::")
    path = ROOT / file
    return path.is_file() and re.search(rf"\b(fn|def) {re.escape(name)}\b", path.read_text()) is not None
