use std::sync::Arc;

use ribbon_core::{
    Admission, Grammar, GrammarKind, GroupOp, KvKind, Pooling, PromptRuns, RibbonOp, RowResult,
    Sampling, ShardDescription, Slot, StepPlan, Storage, Token, TokenScore, Wanted, Watermark,
    WorkItem,
};

use super::*;
use crate::{ShardError, client::Place, wire};

fn bytes(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    bytes(
        &values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>(),
    )
}

/// Runs that want nothing, a token, scores of the prompt, or both; and such as are pooled.
fn work_items() -> Vec<WorkItem> {
    let item = |slot, count, wanted, scores_prompt| WorkItem {
        slot: Slot(slot),
        count,
        wanted,
        scores_prompt,
        pools: None,
    };
    let pooled = |slot, wanted, pooling| WorkItem {
        pools: Some(pooling),
        ..item(slot, 3, wanted, false)
    };
    vec![
        item(2, 2, Wanted::Sample, true),
        item(9, 64, Wanted::Nothing, false),
        item(3, 5, Wanted::Nothing, true),
        item(4, 1, Wanted::Sample, false),
        pooled(5, Wanted::Nothing, Pooling::Mean),
        pooled(6, Wanted::End, Pooling::Mean),
        pooled(7, Wanted::End, Pooling::Last),
        item(8, 2, Wanted::End, true),
    ]
}

#[test]
fn a_plan_becomes_columns() {
    let sampling = Sampling {
        seed: u64::MAX,
        logit_bias: vec![(7, -1.5)],
        watermark: Some(Watermark {
            gamma: 0.25,
            delta: 3.0,
        }),
        prompt_top_tokens: Some(4),
        grammar: Some(Arc::new(Grammar {
            kind: GrammarKind::Regex,
            source: "a+".into(),
            digest: [7; 32],
            start_after: Some(0),
            opened_by: Some(1),
        })),
        ..Sampling::default()
    };
    let plan = StepPlan {
        step_id: 3,
        admitted: vec![Admission {
            slot: Slot(2),
            sequence_id: 9,
            token_ids: vec![1, 70_000],
            prompt_tokens: 1,
            sampling: Arc::new(sampling),
            stop_token_ids: Arc::from([5]),
            min_tokens: 4,
            traceparent: Some("00-ab-cd-01".into()),
        }],
        ops: vec![
            RibbonOp::Close {
                slot: Slot(1),
                keep: false,
            },
            RibbonOp::Open {
                slot: Slot(2),
                storage: Storage(2),
                tokens: 0,
            },
            RibbonOp::Share {
                slot: Slot(2),
                storage: Storage(3),
                end: 64,
            },
            RibbonOp::Grow {
                slot: Slot(2),
                end: 300,
            },
            RibbonOp::Close {
                slot: Slot(4),
                keep: true,
            },
            RibbonOp::Truncate {
                storage: Storage(5),
                end: 6,
            },
            RibbonOp::Drop {
                storage: Storage(7),
            },
        ]
        .into_iter()
        .zip(0..)
        .map(|(op, group)| GroupOp {
            group: group % 2,
            op,
        })
        .collect(),
        work: work_items(),
    };
    let wire = super::plan(&plan);
    let ops = wire.ops.unwrap();
    assert_eq!(ops.kind, [5, 1, 2, 3, 5, 6, 7]);
    assert_eq!(ops.group, [0, 1, 0, 1, 0, 1, 0]);
    assert_eq!(ops.slot, bytes(&[1, 2, 2, 2, 4, 0, 0]));
    assert_eq!(ops.storage, bytes(&[0, 2, 3, 0, 0, 5, 7]));
    assert_eq!(ops.tokens, bytes(&[0, 0, 64, 300, 1, 6, 0]));
    let work = wire.work.unwrap();
    assert_eq!(work.slot, bytes(&[2, 9, 3, 4, 5, 6, 7, 8]));
    assert_eq!(work.count, bytes(&[2, 64, 5, 1, 3, 3, 3, 2]));
    assert_eq!(work.wanted, [3, 0, 2, 1, 8, 12, 20, 6]);
    let admitted = &wire.admitted[0];
    assert_eq!(admitted.token_ids, bytes(&[1, 70_000]));
    assert_eq!((admitted.prompt_tokens, admitted.min_tokens), (1, 4));
    assert_eq!(admitted.traceparent, "00-ab-cd-01");
    let sampling = admitted.sampling.as_ref().unwrap();
    assert_eq!(sampling.seed, u64::MAX);
    assert_eq!(sampling.bias_values, (-1.5f32).to_le_bytes());
    assert_eq!(
        (sampling.watermark_gamma, sampling.watermark_delta),
        (0.25, 3.0)
    );
    assert_eq!(sampling.prompt_top_tokens, 4);
    let grammar = sampling.grammar.as_ref().unwrap();
    assert_eq!(grammar.kind(), wire::GrammarKind::Regex);
    assert_eq!(
        (grammar.source.as_str(), &grammar.digest[..]),
        ("a+", &[7u8; 32][..])
    );
    assert_eq!((grammar.start_after, grammar.opened_by), (Some(0), Some(1)));
}

fn good_outcome() -> wire::StepOutcome {
    wire::StepOutcome {
        step_id: 4,
        slot: bytes(&[1, 2, 3, 4]),
        status: vec![1, 2, 3, 6],
        token_id: bytes(&[0, 70_000, 2, 0]),
        logprob: floats(&[0.0, -0.5, -1.0, 0.0]),
        top_count: vec![0, 2, 1, 0],
        top_token_id: bytes(&[8, 9, 2]),
        top_logprob: floats(&[-0.1, -0.2, -0.3]),
        prompt_count: bytes(&[2, 1, 0, 0]),
        prompt_logprob: floats(&[-1.5, -2.5, -3.5]),
        prompt_top_count: vec![0, 1, 2],
        prompt_top_token_id: bytes(&[5, 6, 7]),
        prompt_top_logprob: floats(&[-0.4, -0.5, -0.6]),
        pooled_count: bytes(&[2, 0, 0, 0]),
        pooled: floats(&[0.5, -3.0]),
        errors: vec![wire::RowError {
            row: 3,
            message: "not finite".into(),
        }],
        timings: Some(wire::Timings {
            total_ns: 1_500,
            ..wire::Timings::default()
        }),
        pages_available: Some(77),
        failure: String::new(),
        out_of_pages: false,
    }
}

#[test]
fn an_outcome_is_read_row_by_row() {
    let outcome = super::outcome(good_outcome()).unwrap();
    assert_eq!((outcome.step_id, outcome.pages_available), (4, Some(77)));
    assert_eq!(outcome.timings.total.as_nanos(), 1_500);
    let score = |logprob, top: &[(u32, f32)]| TokenScore {
        logprob,
        top: top.to_vec(),
    };
    let pooled: Vec<&[f32]> = outcome.rows.iter().map(|row| &row.pooled[..]).collect();
    assert_eq!(pooled, [&[0.5, -3.0][..], &[], &[], &[]]);
    let prompts: Vec<_> = outcome.rows.iter().map(|row| row.prompt.clone()).collect();
    assert_eq!(
        prompts,
        [
            vec![score(-1.5, &[]), score(-2.5, &[(5, -0.4)])],
            vec![score(-3.5, &[(6, -0.5), (7, -0.6)])],
            vec![],
            vec![],
        ]
    );
    let results: Vec<_> = outcome.rows.into_iter().map(|row| row.result).collect();
    let sampled = |id, logprob, top, stopped| RowResult::Sampled {
        token: Token { id, logprob, top },
        stopped,
    };
    assert_eq!(
        results,
        [
            RowResult::Fed,
            sampled(70_000, -0.5, vec![(8, -0.1), (9, -0.2)], false),
            sampled(2, -1.0, vec![(2, -0.3)], true),
            RowResult::Failed {
                message: "not finite".into()
            },
        ]
    );
}

#[test]
fn without_scores_of_prompts_their_columns_are_empty() {
    let mut outcome = good_outcome();
    outcome.prompt_count.clear();
    outcome.prompt_logprob.clear();
    outcome.prompt_top_count.clear();
    outcome.prompt_top_token_id.clear();
    outcome.prompt_top_logprob.clear();
    outcome.pooled_count.clear();
    outcome.pooled.clear();
    let rows = super::outcome(outcome).unwrap().rows;
    assert_eq!(rows.len(), 4);
    assert!(
        rows.iter()
            .all(|row| row.prompt.is_empty() && row.pooled.is_empty())
    );
}

#[test]
fn of_a_failed_step_only_the_reason_counts() {
    let failed = wire::StepOutcome {
        failure: "out of pages".into(),
        step_id: 2,
        ..Default::default()
    };
    let outcome = super::outcome(failed).unwrap();
    assert_eq!(outcome.failure.as_deref(), Some("out of pages"));
    assert!(outcome.rows.is_empty());
}

#[test]
fn every_broken_column_is_refused_by_name() {
    type Spoil = fn(&mut wire::StepOutcome);
    let spoils: [(&str, Spoil); 15] = [
        ("slot", |outcome| outcome.slot.truncate(3)),
        ("status", |outcome| outcome.status.push(1)),
        ("token_id", |outcome| outcome.token_id.truncate(3)),
        ("logprob", |outcome| outcome.logprob.clear()),
        ("top_count", |outcome| outcome.top_count.truncate(3)),
        ("top_token_id", |outcome| outcome.top_count[0] = 3),
        ("top_logprob", |outcome| outcome.top_logprob.truncate(3)),
        ("prompt_count", |outcome| outcome.prompt_count.truncate(4)),
        ("prompt_logprob", |outcome| outcome.prompt_count[0] = 9),
        ("prompt_top_count", |outcome| {
            outcome.prompt_top_count.truncate(2);
        }),
        ("prompt_top_token_id", |outcome| {
            outcome.prompt_top_count[0] = 1;
        }),
        ("prompt_top_logprob", |outcome| {
            outcome.prompt_top_logprob.clear();
        }),
        ("pooled_count", |outcome| outcome.pooled_count.truncate(4)),
        ("pooled", |outcome| outcome.pooled_count[1] = 1),
        ("status 9", |outcome| outcome.status[0] = 9),
    ];
    for (name, spoil) in spoils {
        let mut outcome = good_outcome();
        spoil(&mut outcome);
        let message = super::outcome(outcome).unwrap_err().to_string();
        assert!(message.contains(name), "{name}: {message}");
    }
}

pub(crate) fn warm() -> wire::WarmupResponse {
    wire::WarmupResponse {
        description: Some(wire::DescribeResponse {
            architecture: "LlamaForCausalLM".into(),
            dtype: "bfloat16".into(),
            device: "cpu".into(),
            vocab_size: 2048,
            max_positions: 4096,
            eos_token_ids: vec![0, 1],
            prompt_runs: wire::PromptRuns::Causal as i32,
            kv_groups: vec![wire::KvGroup {
                kind: wire::KvKind::Full as i32,
                stride_bytes: 3072,
                page_bytes: 4096,
                num_pages: 1000,
                slot_tokens: 512,
                num_slots: 9,
                num_storages: 9,
                ..Default::default()
            }],
            world_size: 1,
            generation: 1,
            ..Default::default()
        }),
        max_batch_prefill_tokens: 256,
        max_total_tokens: 512,
        slowest_step_ns: 180_000_000,
        prompt_token_ns: 600_000,
        ..Default::default()
    }
}

#[test]
fn a_warm_shard_is_described() {
    let shard = description(warm()).unwrap();
    assert_eq!((shard.vocab_size, shard.max_total_tokens), (2048, 512));
    assert_eq!(shard.slowest_step.as_millis(), 180);
    assert_eq!(shard.prompt_token.as_micros(), 600);
    assert_eq!(shard.kv_groups[0].kind, KvKind::Full);
    assert_eq!(shard.revision, None);
}

#[test]
fn what_is_missing_or_not_built_is_refused_by_name() {
    type Spoil = fn(&mut wire::DescribeResponse);
    let spoils: [(&str, Spoil); 8] = [
        ("vocab_size", |shard| shard.vocab_size = 0),
        ("kv_groups", |shard| shard.kv_groups.clear()),
        ("256 KV groups", |shard| {
            shard.kv_groups = vec![shard.kv_groups[0].clone(); 256];
        }),
        ("differ in more than kind and stride", |shard| {
            shard.kv_groups.push(shard.kv_groups[0].clone());
            shard.kv_groups[1].num_pages += 1;
        }),
        ("kv_groups.kind", |shard| shard.kv_groups[0].kind = 0),
        ("kv_groups.window", |shard| {
            shard.kv_groups[0].kind = wire::KvKind::Window as i32;
        }),
        ("num_slots", |shard| shard.kv_groups[0].num_slots = 1),
        ("storages", |shard| shard.kv_groups[0].num_storages = 3),
    ];
    for (name, spoil) in spoils {
        let mut warm = warm();
        spoil(warm.description.as_mut().unwrap());
        let message = description(warm).unwrap_err().to_string();
        assert!(message.contains(name), "{name}: {message}");
    }
}

#[test]
fn the_time_of_a_prompts_token_has_to_be_known() {
    let untimed = wire::WarmupResponse {
        prompt_token_ns: 0,
        ..warm()
    };
    let message = description(untimed).unwrap_err().to_string();
    assert!(
        message.contains("`prompt_token_ns` is missing"),
        "{message}"
    );
}

#[test]
fn a_shard_can_do_what_its_abilities_name() {
    let able = |names: &[&str]| {
        let mut warm = warm();
        let shard = warm.description.as_mut().unwrap();
        shard.abilities = names.iter().map(|name| (*name).to_owned()).collect();
        let shard = description(warm).unwrap();
        [shard.runs_bridge, shard.can_pool, shard.can_score_prompts]
    };
    assert_eq!(able(&["sample"]), [false; 3]);
    assert_eq!(able(&["bridge"]), [true, false, false]);
    assert_eq!(able(&["pooled"]), [false, true, false]);
    assert_eq!(able(&["prompt_logprobs"]), [false, false, true]);
}

#[test]
fn groups_with_and_without_a_window_are_told_apart() {
    let mut warm = warm();
    let groups = &mut warm.description.as_mut().unwrap().kv_groups;
    groups.push(wire::KvGroup {
        kind: wire::KvKind::Window as i32,
        window: 24,
        stride_bytes: 1024,
        ..groups[0].clone()
    });
    let shard = description(warm).unwrap();
    let kinds = shard
        .kv_groups
        .iter()
        .map(|group| (group.kind, group.stride_bytes));
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [(KvKind::Full, 3072), (KvKind::Window(24), 1024)]
    );
}

#[test]
fn a_shard_of_another_start_or_kind_is_not_warmed() {
    let shard = warm().description.unwrap();
    let alone = place(0, 1);
    assert!(check(&shard, 1, alone).is_ok());
    assert!(
        check(&shard, 2, alone)
            .unwrap_err()
            .to_string()
            .contains("generation 1, not 2")
    );
    let whole = wire::DescribeResponse {
        prompt_runs: wire::PromptRuns::Whole as i32,
        ..shard.clone()
    };
    let refused = |shard| check(&shard, 1, alone).unwrap_err().to_string();
    assert!(refused(whole.clone()).contains("`start_token_id` is missing"));
    let with = |token| wire::DescribeResponse {
        start_token_id: Some(token),
        ..whole.clone()
    };
    assert!(refused(with(2048)).contains("`start_token_id` is 2048"));
    assert!(check(&with(2047), 1, alone).is_ok());
    let warm = wire::WarmupResponse {
        description: Some(with(2047)),
        ..warm()
    };
    let runs = description(warm).unwrap().prompt_runs;
    assert_eq!(runs, PromptRuns::Whole { start_token: 2047 });
}

fn place(rank: u32, world_size: u32) -> Place {
    Place { rank, world_size }
}

#[test]
fn a_shard_has_to_be_the_one_that_was_announced() {
    let second = wire::DescribeResponse {
        rank: 1,
        world_size: 2,
        ..warm().description.unwrap()
    };
    assert!(check(&second, 1, place(1, 2)).is_ok());
    for announced in [place(0, 1), place(0, 2), place(1, 3)] {
        let message = check(&second, 1, announced).unwrap_err().to_string();
        assert!(
            message.contains("rank 1 of 2 shards"),
            "{announced}: {message}"
        );
    }
}

#[test]
fn a_group_is_what_all_its_shards_are_and_as_fast_as_the_slowest() {
    let first = description(warm()).unwrap();
    let second = ShardDescription {
        slowest_step: first.slowest_step * 2,
        prompt_token: first.prompt_token * 2,
        ..first.clone()
    };
    let group = together([first.clone(), second.clone()]).unwrap();
    assert_eq!(group, second);
    let other = ShardDescription {
        max_total_tokens: first.max_total_tokens - 1,
        ..second
    };
    let message = together([first, other]).unwrap_err().to_string();
    assert!(message.contains("ranks 0 and 1 differ"), "{message}");
    assert!(matches!(together([]), Err(ShardError::NoShards)));
}
