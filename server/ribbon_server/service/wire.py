"""Between the messages of shard.proto and the engine's records. Columns are views of the message's bytes, not copies."""

import numpy as np

from ribbon_server.engine.shard import WarmShard
from ribbon_server.engine.step import Admission, RefusedAdmission, StepOutcome, StepPlan
from ribbon_server.errors import InvalidRequest
from ribbon_server.kv.group import RibbonGroup
from ribbon_server.kv.operations import RibbonOps
from ribbon_server.models.open import Model
from ribbon_server.pb import shard_pb2 as pb
from ribbon_server.sampling.grammars import Grammar
from ribbon_server.sampling.params import SamplingParams, parameters

U32, U8, F32 = np.dtype("<u4"), np.dtype("u1"), np.dtype("<f4")
SAME_NAME = (
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "count_penalty",
    "seed",
    "choice",
    "top_tokens",
    "watermark_gamma",
    "watermark_delta",
    "prompt_top_tokens",
)
GRAMMAR_KINDS = {
    pb.GRAMMAR_KIND_JSON_SCHEMA: "json_schema",
    pb.GRAMMAR_KIND_REGEX: "regex",
    pb.GRAMMAR_KIND_LARK: "lark",
}
DIGEST_BYTES = 32
NEUTRAL_WHEN_ABSENT = (
    "temperature",
    "top_p",
    "typical_p",
    "repetition_penalty",
)  # proto3 sends 0 for these only when absent


def column(data: bytes, dtype: np.dtype, name: str) -> np.ndarray:
    """A column of a message.

    Raises:
        InvalidRequest: The bytes are no whole number of values.
    """
    if len(data) % dtype.itemsize:
        raise InvalidRequest(f"`{name}` has {len(data)} bytes, no multiple of {dtype.itemsize}")
    return np.frombuffer(data, dtype)


def plan_from_wire(message: pb.StepPlan) -> StepPlan:
    """Parses a plan.

    Raises:
        InvalidRequest: Columns that do not fit each other.
    """
    work = message.work
    slot, count, wanted = (
        column(work.slot, U32, "work.slot"),
        column(work.count, U32, "work.count"),
        column(work.wanted, U8, "work.wanted"),
    )
    _same_rows("work", slot, count, wanted)
    return StepPlan(
        message.step_id, [_admission(admitted) for admitted in message.admitted], _ops(message.ops), slot, count, wanted
    )


def empty_plan(message: pb.StepPlan) -> StepPlan:
    """What is left of a plan that cannot be parsed: its rows, to answer them."""
    rows = np.frombuffer(message.work.slot[: len(message.work.slot) // 4 * 4], U32)
    ops = RibbonOps(*(np.zeros(0, dtype) for dtype in (U8, U8, U32, U32, U32)))
    return StepPlan(message.step_id, (), ops, rows, np.zeros_like(rows), np.zeros(len(rows), U8))


def _ops(message: pb.RibbonOps) -> RibbonOps:
    ops = RibbonOps(
        kind=column(message.kind, U8, "ops.kind"),
        group=column(message.group, U8, "ops.group"),
        slot=column(message.slot, U32, "ops.slot"),
        storage=column(message.storage, U32, "ops.storage"),
        tokens=column(message.tokens, U32, "ops.tokens"),
    )
    _same_rows("ops", ops.kind, ops.group, ops.slot, ops.storage, ops.tokens)
    return ops


def _same_rows(name: str, *columns: np.ndarray) -> None:
    lengths = [len(values) for values in columns]
    if len(set(lengths)) != 1:
        raise InvalidRequest(f"the columns of `{name}` have {lengths} rows; they must have the same number")


def _admission(message: pb.Admission) -> Admission | RefusedAdmission:
    try:
        return Admission(
            slot=message.slot,
            sequence_id=message.sequence_id,
            token_ids=column(message.token_ids, U32, "token_ids"),
            prompt_tokens=message.prompt_tokens,
            params=_params(message),
        )
    except InvalidRequest as error:
        return RefusedAdmission(message.slot, str(error))


def _params(message: pb.Admission) -> SamplingParams:
    wire = message.sampling
    given = {name: getattr(wire, name) for name in SAME_NAME}
    given |= {name: value for name in NEUTRAL_WHEN_ABSENT if (value := getattr(wire, name)) != 0.0}
    values = parameters(greedy=wire.greedy, min_tokens=message.min_tokens, **given)
    bias_ids, bias_values = (
        column(wire.bias_token_ids, U32, "bias_token_ids"),
        column(wire.bias_values, F32, "bias_values"),
    )
    _same_rows("bias", bias_ids, bias_values)
    if not np.isfinite(bias_values).all():
        raise InvalidRequest("`bias_values` must be finite")
    stops = column(message.stop_token_ids, U32, "stop_token_ids")
    grammar = _grammar(wire.grammar) if wire.HasField("grammar") else None
    return SamplingParams(values, stops, bias_ids, bias_values, grammar)


def _grammar(wire: pb.Grammar) -> Grammar:
    if wire.kind not in GRAMMAR_KINDS:
        raise InvalidRequest(f"`grammar.kind` is {wire.kind}; this shard knows {sorted(GRAMMAR_KINDS)}")
    if len(wire.digest) != DIGEST_BYTES:
        raise InvalidRequest(f"`grammar.digest` has {len(wire.digest)} bytes; SHA-256 has {DIGEST_BYTES}")
    start_after = wire.start_after if wire.HasField("start_after") else None
    opened_by = wire.opened_by if wire.HasField("opened_by") else None
    return Grammar(GRAMMAR_KINDS[wire.kind], wire.source, wire.digest, start_after, opened_by)


def outcome_to_wire(outcome: StepOutcome) -> pb.StepOutcome:
    """Builds the answer; one `tobytes` a column."""
    timings, prompt = outcome.timings, outcome.prompt
    answer = pb.StepOutcome(
        step_id=outcome.step_id,
        slot=outcome.slot.tobytes(),
        status=outcome.status.tobytes(),
        token_id=outcome.token_id.tobytes(),
        logprob=outcome.logprob.tobytes(),
        top_count=outcome.top_count.tobytes(),
        top_token_id=outcome.top_token_id.tobytes(),
        top_logprob=outcome.top_logprob.tobytes(),
        errors=[pb.RowError(row=row, message=message) for row, message in outcome.errors],
        timings=pb.Timings(
            prepare_ns=timings.prepare_ns,
            forward_ns=timings.forward_ns,
            sample_ns=timings.sample_ns,
            total_ns=timings.total_ns,
            idle_ns=timings.idle_ns,
        ),
        failure=outcome.failure,
        out_of_pages=outcome.is_out_of_pages,
    )
    if prompt is not None:
        answer.prompt_count = outcome.prompt_count.tobytes()
        answer.prompt_logprob = prompt.logprob.tobytes()
        answer.prompt_top_count = prompt.top_count.tobytes()
        answer.prompt_top_token_id = prompt.top_token_id.tobytes()
        answer.prompt_top_logprob = prompt.top_logprob.tobytes()
    if outcome.pooled.size:
        answer.pooled_count = outcome.pooled_count.tobytes()
        answer.pooled = outcome.pooled.tobytes()
    return answer


def describe(model: Model, warm: WarmShard | None) -> pb.DescribeResponse:
    """What the model and, when warm, the region say of themselves; the caller adds what the process was told."""
    spec = model.spec
    is_causal = model.start_token_id is None
    extra = {
        "prompt_logprobs": is_causal,
        "bridge": model.is_bridged,
        "pooled": is_causal and not model.is_bridged,
        "grammar": model.tokenizer_json is not None,
    }
    return pb.DescribeResponse(
        architecture=spec.architecture,
        dtype=model.dtype.value,
        device=model.decoder.device.type,
        vocab_size=spec.vocab_size,
        max_positions=spec.max_positions,
        eos_token_ids=model.eos_token_ids,
        prompt_runs=pb.PROMPT_RUNS_CAUSAL if is_causal else pb.PROMPT_RUNS_WHOLE,
        start_token_id=model.start_token_id,
        abilities=["sample", "top_tokens", *(name for name, has in extra.items() if has)],
        kv_groups=[] if warm is None else [_kv_group(model, group) for group in warm.engine.ribbons.groups],
        num_parameters_millions=round(model.decoder.num_parameters / 1e6),
    )


def _kv_group(model: Model, group: RibbonGroup) -> pb.KvGroup:
    window = group.layout.window
    return pb.KvGroup(
        kind=pb.KV_KIND_FULL if window is None else pb.KV_KIND_WINDOW,
        window=window or 0,
        stride_bytes=group.layout.stride_bytes,
        page_bytes=group.region.page_bytes,
        num_pages=group.limits.num_pages,
        slot_tokens=group.limits.slot_tokens,
        num_slots=group.limits.num_slots,
        num_storages=group.limits.num_storages,
        num_layers=len(group.layout.layers),
        dtype=model.dtype.value,
        max_spans=group.region.max_spans,
    )
