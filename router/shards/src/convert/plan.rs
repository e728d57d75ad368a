//! A plan, onto the wire.

use ribbon_core::{
    Admission, Grammar, GrammarKind, GroupOp, Pooling, RibbonOp, Sampling, StepPlan, Wanted,
    WorkItem,
};

use super::column::{f32s, u32s};
use crate::wire;

/// The whole plan.
pub(crate) fn plan(plan: &StepPlan) -> wire::StepPlan {
    wire::StepPlan {
        step_id: plan.step_id,
        admitted: plan.admitted.iter().map(admission).collect(),
        ops: Some(ops(&plan.ops)),
        work: Some(work(&plan.work)),
    }
}

fn admission(admission: &Admission) -> wire::Admission {
    wire::Admission {
        slot: admission.slot.0,
        sequence_id: admission.sequence_id,
        token_ids: u32s(admission.token_ids.iter().copied()),
        prompt_tokens: admission.prompt_tokens,
        sampling: Some(sampling(&admission.sampling)),
        stop_token_ids: u32s(admission.stop_token_ids.iter().copied()),
        min_tokens: admission.min_tokens,
        traceparent: admission
            .traceparent
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn sampling(sampling: &Sampling) -> wire::Sampling {
    wire::Sampling {
        greedy: sampling.greedy,
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        typical_p: sampling.typical_p,
        repetition_penalty: sampling.repetition_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        count_penalty: sampling.count_penalty,
        seed: sampling.seed,
        choice: sampling.choice,
        top_tokens: sampling.top_tokens,
        bias_token_ids: u32s(sampling.logit_bias.iter().map(|(token, _)| *token)),
        bias_values: f32s(sampling.logit_bias.iter().map(|(_, value)| *value)),
        watermark_gamma: sampling.watermark.map_or(0.0, |mark| mark.gamma),
        watermark_delta: sampling.watermark.map_or(0.0, |mark| mark.delta),
        prompt_top_tokens: sampling.prompt_top_tokens.unwrap_or(0),
        grammar: sampling.grammar.as_deref().map(grammar),
    }
}

fn grammar(grammar: &Grammar) -> wire::Grammar {
    let kind = match grammar.kind {
        GrammarKind::JsonSchema => wire::GrammarKind::JsonSchema,
        GrammarKind::Regex => wire::GrammarKind::Regex,
        GrammarKind::Lark => wire::GrammarKind::Lark,
    };
    wire::Grammar {
        kind: kind as i32,
        source: grammar.source.as_ref().to_owned(),
        digest: grammar.digest.to_vec(),
        start_after: grammar.start_after,
        opened_by: grammar.opened_by,
    }
}

/// Kind, slot, storage and tokens of one operation.
fn op(op: &RibbonOp) -> (wire::RibbonOpKind, u32, u32, u32) {
    use wire::RibbonOpKind as Kind;
    match *op {
        RibbonOp::Open {
            slot,
            storage,
            tokens,
        } => (Kind::Open, slot.0, storage.0, tokens),
        RibbonOp::Share { slot, storage, end } => (Kind::Share, slot.0, storage.0, end),
        RibbonOp::Grow { slot, end } => (Kind::Grow, slot.0, 0, end),
        RibbonOp::TrimFront { slot, begin } => (Kind::TrimFront, slot.0, 0, begin),
        RibbonOp::Close { slot, keep } => (Kind::Close, slot.0, 0, u32::from(keep)),
        RibbonOp::Truncate { storage, end } => (Kind::Truncate, 0, storage.0, end),
        RibbonOp::Drop { storage } => (Kind::Drop, 0, storage.0, 0),
    }
}

fn ops(ops: &[GroupOp]) -> wire::RibbonOps {
    let rows = || ops.iter().map(|row| op(&row.op));
    wire::RibbonOps {
        kind: rows().map(|(kind, ..)| kind as u8).collect(),
        group: ops.iter().map(|row| row.group).collect(),
        slot: u32s(rows().map(|(_, slot, ..)| slot)),
        storage: u32s(rows().map(|(_, _, storage, _)| storage)),
        tokens: u32s(rows().map(|(.., tokens)| tokens)),
    }
}

fn work(work: &[WorkItem]) -> wire::Work {
    let wanted = |item: &WorkItem| {
        let scores = if item.scores_prompt {
            wire::Wanted::PromptLogprobs as u8
        } else {
            wire::Wanted::None as u8
        };
        let pools = match item.pools {
            None => wire::Wanted::None,
            Some(Pooling::Mean) => wire::Wanted::PooledMean,
            Some(Pooling::Last) => wire::Wanted::PooledLast,
        };
        let yields = match item.wanted {
            Wanted::Nothing => wire::Wanted::None,
            Wanted::Sample => wire::Wanted::Sample,
            Wanted::End => wire::Wanted::End,
        };
        scores | pools as u8 | yields as u8
    };
    wire::Work {
        slot: u32s(work.iter().map(|item| item.slot.0)),
        count: u32s(work.iter().map(|item| item.count)),
        wanted: work.iter().map(wanted).collect(),
    }
}
