//! Prompts that a shard computes in one piece: never cut, never shared, alone where they are too long for company.

use ribbon_core::{Admission, PromptRuns};

use super::*;
use crate::whole::completed;

const START: u32 = 3;
const WHOLE: PromptRuns = PromptRuns::Whole { start_token: START };
/// Tokens of a step of the shard in `testing`.
const BUDGET: u32 = 64;

fn whole_scheduler() -> (Scheduler, Instant) {
    let (mut scheduler, now) = ready_scheduler();
    let shard = ShardDescription {
        prompt_runs: WHOLE,
        ..description()
    };
    scheduler.on_ready(shard, now);
    (scheduler, now)
}

/// The counts of the work of the next plan, which is answered at once.
fn step(scheduler: &mut Scheduler, now: Instant) -> Vec<u32> {
    let plan = scheduler.next_plan(now).unwrap();
    check(scheduler).unwrap();
    scheduler.on_outcome(answer(&plan, 5), now);
    plan.work.iter().map(|item| item.count).collect()
}

#[test]
fn the_start_token_ends_every_prompt() {
    let group = vec![own_request(1, 4, 9), own_request(2, 7, 9)];
    let lengths = |group: &[SequenceRequest]| -> Vec<usize> {
        group.iter().map(|request| request.prompt.len()).collect()
    };
    let whole = completed(group.clone(), WHOLE);
    assert_eq!(lengths(&whole), [5, 8]);
    for (request, before) in whole.iter().zip(&group) {
        assert_eq!(request.prompt.split_last(), Some((&START, &*before.prompt)));
    }
    assert_eq!(completed(group.clone(), PromptRuns::Causal).len(), 2);
    assert_eq!(lengths(&completed(group, PromptRuns::Causal)), [4, 7]);
}

#[test]
fn a_long_prompt_of_the_warm_up_says_nothing_of_what_a_token_takes() {
    let (mut scheduler, now) = ready_scheduler();
    let prompt_token = Duration::from_micros(500);
    let shard = ShardDescription {
        prompt_runs: WHOLE,
        slowest_step: Duration::from_secs(10),
        prompt_token,
        ..description()
    };
    scheduler.on_ready(shard, now);
    let bound = &scheduler.live.as_ref().unwrap().bound;
    assert_eq!(bound.expected(0, 10), prompt_token * 10);
}

#[test]
fn a_prompt_is_never_cut_and_one_above_the_budget_has_a_step_alone() {
    let (mut scheduler, now) = whole_scheduler();
    scheduler.submit(own_request(1, 30, 50), now).unwrap();
    assert_eq!(step(&mut scheduler, now), [30]);
    assert_eq!(step(&mut scheduler, now), [1]);
    for own in 2..5 {
        let long = own_request(own, 2 * BUDGET + own, 50);
        scheduler.submit(long, now).unwrap();
    }
    let counts: Vec<Vec<u32>> = (0..6).map(|_| step(&mut scheduler, now)).collect();
    let alone = |own: u32| vec![2 * BUDGET + own];
    assert_eq!(
        counts,
        [
            alone(2),
            vec![1, 1],
            alone(3),
            vec![1, 1, 1],
            alone(4),
            vec![1, 1, 1, 1]
        ],
        "decodes have every other step"
    );
}

#[test]
fn prompts_that_fit_join_the_decodes_as_long_as_they_fit_together() {
    let (mut scheduler, now) = whole_scheduler();
    scheduler.submit(own_request(1, 5, 50), now).unwrap();
    step(&mut scheduler, now);
    step(&mut scheduler, now);
    for own in 2..5 {
        scheduler.submit(own_request(own, 40, 50), now).unwrap();
    }
    let mut fed = Vec::new();
    while fed.len() < 3 {
        let counts = step(&mut scheduler, now);
        assert!(counts.iter().sum::<u32>() <= BUDGET);
        assert!(
            counts.contains(&1),
            "the first one decodes in each: {counts:?}"
        );
        fed.extend(counts.into_iter().filter(|count| *count > 1));
    }
    assert_eq!(fed, [40, 40, 40]);
}

#[test]
fn equal_prompts_are_computed_for_each_sequence() {
    let (mut scheduler, now) = whole_scheduler();
    for _ in 0..2 {
        let choices = vec![request(20, 3), request(20, 3)];
        scheduler.submit_group(choices, now).unwrap();
        let mut work = Vec::new();
        while let Some(plan) = scheduler.next_plan(now) {
            let shows = |op: &GroupOp| {
                matches!(
                    op.op,
                    RibbonOp::Share { .. } | RibbonOp::Close { keep: true, .. }
                )
            };
            assert!(!plan.ops.iter().any(shows), "{:?}", plan.ops);
            work.extend(plan.work.iter().map(|item| item.count));
            scheduler.on_outcome(answer(&plan, 5), now);
        }
        assert_eq!(work.iter().filter(|count| **count == 20).count(), 2);
        assert!(scheduler.at_rest());
        scheduler.take_events();
    }
    assert_eq!(scheduler.usage().totals.lookup_tokens, 0);
}

#[test]
fn after_a_restart_what_was_said_rides_in_the_prompts_run() {
    let (mut scheduler, now) = whole_scheduler();
    scheduler.submit(own_request(1, 90, 50), now).unwrap();
    assert_eq!(step(&mut scheduler, now), [90]);
    for _ in 0..3 {
        assert_eq!(step(&mut scheduler, now), [1]);
    }
    scheduler.on_lost("gone", now);
    let shard = ShardDescription {
        prompt_runs: WHOLE,
        ..description()
    };
    scheduler.on_ready(shard, now);
    let plan = scheduler.next_plan(now).unwrap();
    let admission: &Admission = plan.admitted.first().unwrap();
    assert_eq!(
        (admission.token_ids.len(), admission.prompt_tokens),
        (94, 90)
    );
    assert_eq!(work(&plan), [(admission.slot.0, 94)]);
}

#[test]
fn suspects_on_trial_are_not_cut_either() {
    let (mut scheduler, now) = whole_scheduler();
    for own in 1..4 {
        scheduler
            .submit(own_request(own, 40 * own, 9), now)
            .unwrap();
    }
    let mut fed = Vec::new();
    let failed = scheduler.next_plan(now).unwrap();
    scheduler.on_outcome(failure(&failed), now);
    for _ in 0..40 {
        if let Some(plan) = scheduler.next_plan(now) {
            fed.extend(plan.work.iter().map(|item| item.count));
            scheduler.on_outcome(answer(&plan, 5), now);
        }
    }
    let mut prompts: Vec<u32> = fed.into_iter().filter(|count| *count > 1).collect();
    prompts.sort_unstable();
    assert_eq!(prompts, [40, 80, 120]);
    assert!(scheduler.at_rest());
}
