//! The rules of the pipeline and of recovery, one by one. `tests/simulation.rs` has them all at once.

mod flood;
mod lines;
mod queueing;
mod reading;
mod scores;
mod sharing;
mod whole;

use ribbon_core::{FinishReason, GroupOp, RibbonOp, RowResult, StepPlan, Wanted};

use super::*;
use crate::{
    invariants::check,
    testing::{answer, description, failure, own_request, ready_scheduler, request},
};

/// Sends every plan that may leave.
fn plans(scheduler: &mut Scheduler, now: Instant) -> Vec<StepPlan> {
    let plans: Vec<StepPlan> = std::iter::from_fn(|| scheduler.next_plan(now)).collect();
    check(scheduler).unwrap();
    plans
}

/// Slots and counts of a plan.
fn work(plan: &StepPlan) -> Vec<(u32, u32)> {
    plan.work
        .iter()
        .map(|item| (item.slot.0, item.count))
        .collect()
}

fn tokens(scheduler: &mut Scheduler, id: SequenceId) -> Vec<(u32, Option<FinishReason>)> {
    let mine = |event| match event {
        Event::Token { sequence, event } if sequence == id => Some((event.token?.id, event.finish)),
        _ => None,
    };
    scheduler
        .take_events()
        .into_iter()
        .filter_map(mine)
        .collect()
}

fn errors(scheduler: &mut Scheduler) -> Vec<(SequenceId, StreamError)> {
    let failed = |event| match event {
        Event::Failed { sequence, error } => Some((sequence, error)),
        _ => None,
    };
    scheduler
        .take_events()
        .into_iter()
        .filter_map(failed)
        .collect()
}

fn hung(scheduler: &mut Scheduler) -> Option<u64> {
    scheduler
        .take_events()
        .into_iter()
        .find_map(|event| match event {
            Event::Hung { step_id, .. } => Some(step_id),
            _ => None,
        })
}

#[test]
fn two_plans_leave_before_the_first_outcome() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(10, 3), now).unwrap();
    let sent = plans(&mut scheduler, now);
    assert_eq!(
        sent.iter().map(work).collect::<Vec<_>>(),
        [vec![(1, 10)], vec![(1, 1)]]
    );
    assert_eq!(sent[0].admitted[0].token_ids.len(), 10);
    assert_eq!(sent[0].ops.len(), 2, "open and grow: {:?}", sent[0].ops);
    scheduler.on_outcome(answer(&sent[0], 7), now);
    let third = plans(&mut scheduler, now);
    assert_eq!(third.iter().map(work).collect::<Vec<_>>(), [vec![(1, 1)]]);
    assert_eq!(tokens(&mut scheduler, id), [(7, None)]);
}

#[test]
fn the_last_allowed_token_is_sampled_and_never_fed() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(10, 2), now).unwrap();
    let sent = plans(&mut scheduler, now);
    for plan in &sent {
        scheduler.on_outcome(answer(plan, 7), now);
    }
    assert_eq!(
        tokens(&mut scheduler, id),
        [(7, None), (7, Some(FinishReason::Length))]
    );
    let last = plans(&mut scheduler, now);
    assert_eq!(last.len(), 1);
    assert!(last[0].work.is_empty());
    assert!(matches!(
        last[0].ops[..],
        [
            GroupOp {
                group: 0,
                op: RibbonOp::Close {
                    slot: Slot(1),
                    keep: true
                }
            },
            GroupOp {
                group: 0,
                op: RibbonOp::Truncate { end: 11, .. }
            }
        ]
    ));
    assert!(scheduler.at_rest() && scheduler.is_idle());
}

#[test]
fn a_stop_token_ends_the_sequence_and_its_later_row_says_nothing() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(10, 9), now).unwrap();
    let sent = plans(&mut scheduler, now);
    scheduler.on_outcome(answer(&sent[0], 2), now);
    let mut ended = answer(&sent[1], 5);
    ended.rows[0].result = RowResult::Ended;
    scheduler.on_outcome(ended, now);
    assert_eq!(
        tokens(&mut scheduler, id),
        [(2, Some(FinishReason::EosToken))]
    );
    assert_eq!(hung(&mut scheduler), None);
}

#[test]
fn decodes_come_first_and_chunks_share_the_rest_in_order() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(own_request(1, 40, 50), now).unwrap();
    scheduler.submit(own_request(2, 50, 50), now).unwrap();
    scheduler.submit(own_request(3, 60, 50), now).unwrap();
    let sent = plans(&mut scheduler, now);
    assert_eq!(
        work(&sent[0]),
        [(1, 40), (2, 24)],
        "64 tokens, first come first served"
    );
    assert_eq!(sent[0].work[1].wanted, Wanted::Nothing);
    assert_eq!(
        work(&sent[1]),
        [(1, 1)],
        "no second chunk behind a step of prompts alone"
    );
    scheduler.on_outcome(answer(&sent[0], 7), now);
    let third = plans(&mut scheduler, now);
    assert_eq!(
        work(&third[0]),
        [(1, 1)],
        "a probe: what does a decode-only step take?"
    );
    let mut measured = answer(&sent[1], 7);
    measured.timings.total = Duration::from_millis(8);
    scheduler.on_outcome(measured, now);
    let fourth = plans(&mut scheduler, now);
    assert_eq!(
        work(&fourth[0]),
        [(1, 1), (2, 24)],
        "(4 - 1) x 8 ms at 1 ms a token"
    );
}

#[test]
fn a_cancel_frees_slot_and_pages_within_two_steps_at_every_stage() {
    // Rounds of plan and answer before the cancel: queued, in prefill, at the first decodes, in the midst.
    for rounds in 0..5 {
        let (mut scheduler, now) = ready_scheduler();
        let id = scheduler.submit(request(120, 50), now).unwrap();
        let mut sent = VecDeque::new();
        for _ in 0..rounds {
            sent.extend(plans(&mut scheduler, now));
            let plan = sent.pop_front().unwrap();
            scheduler.on_outcome(answer(&plan, 7), now);
        }
        scheduler.take_events();
        scheduler.cancel(id, now);
        let [Event::Cancelled { stage }] = scheduler.take_events()[..] else {
            panic!("one event")
        };
        let expected = [CancelStage::Queued, CancelStage::Prefill][rounds.min(1)];
        let expected = if rounds >= 2 {
            CancelStage::Decode
        } else {
            expected
        };
        assert_eq!(stage, expected, "after {rounds} rounds");
        sent.extend(plans(&mut scheduler, now));
        assert!(sent.len() <= 2, "at most two steps from now");
        assert!(scheduler.at_rest(), "freed with the plan that closes");
        for plan in sent {
            scheduler.on_outcome(answer(&plan, 7), now);
        }
        assert_eq!(hung(&mut scheduler), None);
    }
}

#[test]
fn the_gate_counts_running_and_queued_and_says_when_to_retry() {
    let (mut scheduler, now) = ready_scheduler();
    for _ in 0..64 {
        scheduler.submit(request(4, 4), now).unwrap();
    }
    let refusal = scheduler.submit(request(4, 4), now).unwrap_err();
    let Refusal::Overloaded {
        running: 64,
        limit: 64,
        retry_after,
    } = refusal
    else {
        panic!("{refusal}")
    };
    assert!((1..=60).contains(&retry_after.as_secs()));
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let (mut scheduler, now) = ready_scheduler();
    let refusal = scheduler.submit(request(500, 14), now).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::NeverFits {
            needed: 513,
            limit: 512
        }
    );
    scheduler.submit(request(500, 13), now).unwrap();
}

#[test]
fn nothing_is_taken_before_the_first_shard_or_while_draining() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), Gate::new(4, None));
    assert!(matches!(
        scheduler.submit(request(4, 4), now),
        Err(Refusal::NotReady { .. })
    ));
    scheduler.on_ready(description(), now);
    scheduler.submit(request(4, 4), now).unwrap();
    scheduler.gate.close();
    assert_eq!(
        scheduler.submit(request(4, 4), now),
        Err(Refusal::ShuttingDown)
    );
    scheduler.stop(now);
    assert!(matches!(
        errors(&mut scheduler)[..],
        [(_, StreamError::ShuttingDown)]
    ));
    assert_eq!(scheduler.gate.occupied(), 0);
}

#[test]
fn the_next_generation_gets_the_whole_known_history() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(10, 9), now).unwrap();
    let sent = plans(&mut scheduler, now);
    scheduler.on_outcome(answer(&sent[0], 7), now);
    scheduler.on_lost("killed", now);
    assert_eq!(scheduler.gate.state(), EngineState::Recovering);
    scheduler.on_outcome(answer(&sent[1], 8), now);
    scheduler.on_ready(description(), now);
    let again = plans(&mut scheduler, now);
    assert_eq!(again[0].step_id, 1);
    assert_eq!(again[0].admitted[0].token_ids.len(), 11);
    assert_eq!(again[0].admitted[0].prompt_tokens, 10);
    scheduler.on_outcome(answer(&again[0], 9), now);
    assert_eq!(
        tokens(&mut scheduler, id),
        [(7, None), (9, None)],
        "the late outcome was dropped"
    );
}

#[test]
fn a_sequence_that_fails_twice_alone_ends() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(10, 9), now).unwrap();
    for round in 0..2 {
        assert_eq!(errors(&mut scheduler), []);
        let mut sent = plans(&mut scheduler, now);
        if sent[0].work.is_empty() {
            scheduler.on_outcome(answer(&sent[0], 5), now);
            sent = plans(&mut scheduler, now);
        }
        assert_eq!(sent[0].admitted.len(), 1, "round {round}");
        scheduler.on_outcome(failure(&sent[0]), now);
        assert!(
            plans(&mut scheduler, now).is_empty(),
            "nothing leaves before the last outcome is in"
        );
        let mut cancelled = answer(&sent[1], 5);
        cancelled.rows[0].result = RowResult::Cancelled;
        scheduler.on_outcome(cancelled, now);
    }
    let ended = errors(&mut scheduler);
    assert!(
        matches!(&ended[..], [(ended, StreamError::Generation(_))] if *ended == id),
        "{ended:?}"
    );
}

#[test]
fn suspects_come_back_four_at_a_time_and_are_cleared_past_the_point_of_failure() {
    let (mut scheduler, now) = ready_scheduler();
    for _ in 0..6 {
        scheduler.submit(request(10, 9), now).unwrap();
    }
    let sent = plans(&mut scheduler, now);
    assert_eq!(sent[0].work.len(), 6);
    scheduler.on_lost("killed", now);
    scheduler.on_ready(description(), now);
    let innocent = scheduler.submit(request(10, 9), now).unwrap();
    let mut sizes = Vec::new();
    let mut air = VecDeque::new();
    for _ in 0..12 {
        air.extend(plans(&mut scheduler, now));
        let plan = air.pop_front().unwrap();
        sizes.push(plan.work.len());
        scheduler.on_outcome(answer(&plan, 7), now);
    }
    // The newcomer first; four suspects until each is as far as it was; a turn for everyone else; the other two.
    assert_eq!(sizes[..8], [1, 4, 4, 4, 5, 2, 2, 2], "{sizes:?}");
    assert!(sizes.contains(&7), "in the end all run together: {sizes:?}");
    assert!(scheduler.recovery.waiting().is_empty() && scheduler.recovery.trial().is_empty());
    assert!(
        scheduler
            .sequences
            .values()
            .all(|sequence| !sequence.is_suspect())
    );
    assert!(!tokens(&mut scheduler, innocent).is_empty());
}

#[test]
fn the_innocent_go_on_before_the_suspects() {
    let (mut scheduler, now) = ready_scheduler();
    let suspect = scheduler.submit(request(64, 9), now).unwrap();
    let first = scheduler.next_plan(now).unwrap();
    assert_eq!(work(&first), [(1, 64)]);
    let innocent = scheduler.submit(request(10, 9), now).unwrap();
    scheduler.on_lost("killed", now);
    scheduler.on_ready(description(), now);
    let plan = scheduler.next_plan(now).unwrap();
    assert_eq!(plan.admitted[0].sequence_id, innocent.0);
    assert!(scheduler.sequences[&suspect].is_suspect());
}

#[test]
fn a_bad_row_ends_its_sequence_and_nobody_else() {
    let (mut scheduler, now) = ready_scheduler();
    let bad = scheduler.submit(request(10, 9), now).unwrap();
    let good = scheduler.submit(request(10, 9), now).unwrap();
    let sent = plans(&mut scheduler, now);
    let mut outcome = answer(&sent[0], 7);
    outcome.rows[0].result = RowResult::Failed {
        message: "not finite".into(),
    };
    scheduler.on_outcome(outcome, now);
    let events = scheduler.take_events();
    let error = StreamError::Generation("not finite".into());
    assert!(events.contains(&Event::Failed {
        sequence: bad,
        error
    }));
    let good_goes_on =
        |event: &Event| matches!(event, Event::Token { sequence, .. } if *sequence == good);
    assert!(events.iter().any(good_goes_on));
}

#[test]
fn an_overdue_step_makes_the_engine_recover_and_reports_the_step() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(request(10, 9), now).unwrap();
    assert_eq!(
        scheduler.deadline(),
        None,
        "nothing in flight, nothing to wait for"
    );
    plans(&mut scheduler, now);
    assert_eq!(scheduler.deadline(), Some(now + Duration::from_secs(30)));
    scheduler.on_time(now + Duration::from_secs(29));
    assert_eq!(scheduler.gate.state(), EngineState::Ready);
    scheduler.on_time(now + Duration::from_secs(30));
    assert_eq!(scheduler.gate.state(), EngineState::Recovering);
    assert_eq!(hung(&mut scheduler), Some(1));
    assert!(plans(&mut scheduler, now).is_empty());
    scheduler.on_ready(description(), now);
    assert_eq!(scheduler.gate.state(), EngineState::Ready);
}

#[test]
fn a_hang_says_when_the_step_should_have_been_over() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(request(10, 9), now).unwrap();
    plans(&mut scheduler, now);
    scheduler.take_events();
    scheduler.on_time(now + Duration::from_millis(30_250));
    let hang = Event::Hung {
        step_id: 1,
        due: Some(now + Duration::from_secs(30)),
    };
    assert!(scheduler.take_events().contains(&hang));
}

#[test]
fn recovery_times_out_only_while_no_shard_is_live() {
    let (mut scheduler, now) = ready_scheduler();
    let early = scheduler.submit(request(10, 9), now).unwrap();
    let lost = now + Duration::from_secs(500);
    scheduler.on_time(lost);
    scheduler.on_lost("killed", lost);
    let late = scheduler
        .submit(request(10, 9), lost + Duration::from_mins(1))
        .unwrap();
    assert_eq!(scheduler.deadline(), Some(lost + Duration::from_mins(2)));
    scheduler.on_time(lost + Duration::from_secs(119));
    assert_eq!(errors(&mut scheduler), []);
    let timeout = StreamError::RecoveryTimeout(Duration::from_mins(2));
    scheduler.on_time(lost + Duration::from_mins(2));
    assert_eq!(errors(&mut scheduler), [(early, timeout.clone())]);
    scheduler.on_time(lost + Duration::from_mins(3));
    assert_eq!(errors(&mut scheduler), [(late, timeout)]);
}

#[test]
fn an_answer_that_cannot_be_gets_the_shard_replaced() {
    type Spoil = fn(&mut ribbon_core::StepOutcome);
    let spoils: [Spoil; 4] = [
        |outcome| outcome.step_id = 9,
        |outcome| outcome.rows.clear(),
        |outcome| outcome.rows[0].slot = Slot(3),
        |outcome| outcome.rows[0].result = RowResult::Fed,
    ];
    for spoil in spoils {
        let (mut scheduler, now) = ready_scheduler();
        scheduler.submit(request(10, 9), now).unwrap();
        let sent = plans(&mut scheduler, now);
        let mut outcome = answer(&sent[0], 7);
        spoil(&mut outcome);
        scheduler.on_outcome(outcome, now);
        assert!(hung(&mut scheduler).is_some());
        assert_eq!(scheduler.gate.state(), EngineState::Recovering);
        check(&scheduler).unwrap();
    }
}

#[test]
fn a_shard_whose_every_step_fails_is_replaced() {
    let (mut scheduler, now) = ready_scheduler();
    for _ in 0..40 {
        scheduler.submit(request(2, 9), now).unwrap();
    }
    let mut steps = 0;
    while scheduler.gate.state() == EngineState::Ready {
        for plan in plans(&mut scheduler, now) {
            let outcome = if plan.work.is_empty() {
                answer(&plan, 5)
            } else {
                failure(&plan)
            };
            scheduler.on_outcome(outcome, now);
        }
        steps += 1;
        assert!(steps < 50);
    }
    assert!(hung(&mut scheduler).is_some());
}

#[test]
fn a_smaller_pool_after_a_restart_ends_what_no_longer_fits() {
    let (mut scheduler, now) = ready_scheduler();
    let big = scheduler.submit(request(300, 9), now).unwrap();
    scheduler.submit(request(30, 9), now).unwrap();
    scheduler.on_lost("killed", now);
    let mut smaller = description();
    smaller.kv_groups[0].num_pages = 20;
    scheduler.on_ready(smaller, now);
    let ended = errors(&mut scheduler);
    assert!(
        matches!(&ended[..], [(id, StreamError::Generation(_))] if *id == big),
        "{ended:?}"
    );
    assert_eq!(scheduler.sequences.len(), 1);
}
