//! Sequences that generate nothing: their prompt is read to its end, scored or pooled, and that is all.

use std::sync::Arc;

use ribbon_core::{Pooling, Sampling, SequenceRequest, StepOutcome, TokenEvent};

use super::*;

fn pooled_request(prompt: u32, pooling: Pooling) -> SequenceRequest {
    SequenceRequest {
        pooling: Some(pooling),
        ..request(prompt, 0)
    }
}

/// The answer with a vector for its one row.
fn pooled(plan: &StepPlan, vector: &[f32]) -> StepOutcome {
    let mut outcome = answer(plan, 7);
    outcome.rows[0].pooled = vector.to_vec();
    outcome
}

fn told(scheduler: &mut Scheduler) -> Vec<TokenEvent> {
    let events = scheduler.take_events().into_iter();
    let told = events.filter_map(|event| match event {
        Event::Token { event, .. } => Some(event),
        _ => None,
    });
    told.collect()
}

fn runs(plans: &[StepPlan]) -> Vec<(u32, Wanted, Option<Pooling>)> {
    let items = plans.iter().flat_map(|plan| &plan.work);
    items
        .map(|item| (item.count, item.wanted, item.pools))
        .collect()
}

#[test]
fn every_chunk_is_pooled_and_the_last_one_ends_it() {
    for pooling in [Pooling::Mean, Pooling::Last] {
        let (mut scheduler, now) = ready_scheduler();
        scheduler.submit(pooled_request(80, pooling), now).unwrap();
        let first = plans(&mut scheduler, now);
        assert_eq!(runs(&first), [(64, Wanted::Nothing, Some(pooling))]);
        scheduler.on_outcome(answer(&first[0], 7), now);
        assert!(told(&mut scheduler).is_empty());
        let last = plans(&mut scheduler, now);
        assert_eq!(runs(&last), [(16, Wanted::End, Some(pooling))]);
        scheduler.on_outcome(pooled(&last[0], &[0.5, -1.0]), now);
        let told = told(&mut scheduler);
        assert_eq!(told.len(), 1);
        assert_eq!(
            (&told[0].token, told[0].finish),
            (&None, Some(FinishReason::Length))
        );
        assert_eq!(told[0].pooled.as_deref(), Some(&[0.5, -1.0][..]));
        plans(&mut scheduler, now);
        assert_eq!(scheduler.usage().running, 0);
    }
}

#[test]
fn a_mean_shows_nothing_that_others_computed_and_a_last_state_all_but_its_token() {
    for (pooling, computed) in [(Pooling::Mean, 40), (Pooling::Last, 1)] {
        let (mut scheduler, now) = ready_scheduler();
        scheduler.submit(request(40, 1), now).unwrap();
        for plan in plans(&mut scheduler, now) {
            scheduler.on_outcome(answer(&plan, 7), now);
        }
        told(&mut scheduler);
        scheduler.submit(pooled_request(40, pooling), now).unwrap();
        let sent = plans(&mut scheduler, now);
        assert_eq!(runs(&sent), [(computed, Wanted::End, Some(pooling))]);
        scheduler.on_outcome(pooled(&sent[0], &[1.0]), now);
        assert_eq!(told(&mut scheduler)[0].cached_tokens, 40 - computed);
    }
}

#[test]
fn a_prompt_that_was_pooled_is_there_for_others() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler
        .submit(pooled_request(40, Pooling::Mean), now)
        .unwrap();
    let sent = plans(&mut scheduler, now);
    scheduler.on_outcome(pooled(&sent[0], &[1.0]), now);
    scheduler.submit(request(40, 1), now).unwrap();
    let sent = plans(&mut scheduler, now);
    assert_eq!(runs(&sent), [(1, Wanted::Sample, None)]);
}

#[test]
fn scores_come_without_a_token_also_for_a_prompt_of_one() {
    for prompt in [40, 1] {
        let (mut scheduler, now) = ready_scheduler();
        let sampling = Sampling {
            prompt_top_tokens: Some(0),
            ..Sampling::default()
        };
        let asked = SequenceRequest {
            sampling: Arc::new(sampling),
            ..request(prompt, 0)
        };
        scheduler.submit(asked, now).unwrap();
        let sent = plans(&mut scheduler, now);
        assert_eq!(runs(&sent), [(prompt, Wanted::End, None)]);
        let mut outcome = answer(&sent[0], 7);
        outcome.rows[0].prompt = (1..prompt).map(scores::score).collect();
        scheduler.on_outcome(outcome, now);
        let told = told(&mut scheduler);
        assert_eq!((&told[0].token, &told[0].pooled), (&None, &None));
        let scores = told[0].prompt.as_ref().map(|scores| scores.len() as u32);
        assert_eq!(scores, Some(prompt - 1));
    }
}

#[test]
fn after_a_failed_step_the_prompt_is_pooled_anew() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler
        .submit(pooled_request(80, Pooling::Mean), now)
        .unwrap();
    let first = plans(&mut scheduler, now);
    scheduler.on_outcome(answer(&first[0], 7), now);
    for plan in plans(&mut scheduler, now) {
        scheduler.on_outcome(failure(&plan), now);
    }
    let mut again = Vec::new();
    for _ in 0..8 {
        for plan in plans(&mut scheduler, now) {
            let is_last = plan.work.iter().any(|item| item.wanted == Wanted::End);
            let vector: &[f32] = if is_last { &[1.0] } else { &[] };
            let mut outcome = answer(&plan, 7);
            for row in &mut outcome.rows {
                row.pooled = vector.to_vec();
            }
            scheduler.on_outcome(outcome, now);
            again.push(plan);
        }
    }
    let mean = Some(Pooling::Mean);
    assert_eq!(
        runs(&again),
        [(64, Wanted::Nothing, mean), (16, Wanted::End, mean)]
    );
    assert_eq!(told(&mut scheduler).len(), 1);
}

#[test]
fn a_missing_vector_or_an_unwanted_one_is_no_answer() {
    for (asked, vector) in [
        (pooled_request(10, Pooling::Last), &[][..]),
        (request(10, 0), &[1.0]),
        (request(10, 5), &[1.0]),
        (pooled_request(80, Pooling::Mean), &[1.0]),
    ] {
        let (mut scheduler, now) = ready_scheduler();
        scheduler.submit(asked, now).unwrap();
        let plan = plans(&mut scheduler, now).remove(0);
        scheduler.on_outcome(pooled(&plan, vector), now);
        assert!(hung(&mut scheduler).is_some());
    }
}
