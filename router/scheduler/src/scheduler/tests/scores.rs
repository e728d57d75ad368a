//! What the model thinks of prompts: asked for once, chunk by chunk, and delivered with the first token.

use std::sync::Arc;

use ribbon_core::{Sampling, SequenceRequest, StepOutcome, TokenScore};

use super::*;

fn scored_request(prompt: u32, max_new_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        sampling: Arc::new(Sampling {
            prompt_top_tokens: Some(0),
            ..Sampling::default()
        }),
        ..request(prompt, max_new_tokens)
    }
}

/// The answer with scores of prompt tokens `places` for its one row.
fn scored(plan: &StepPlan, token: u32, places: std::ops::Range<u32>) -> StepOutcome {
    let mut outcome = answer(plan, token);
    outcome.rows[0].prompt = places.map(score).collect();
    outcome
}

pub(super) fn score(place: u32) -> TokenScore {
    TokenScore {
        logprob: -(place as f32),
        top: Vec::new(),
    }
}

/// The prompt's scores that came with each token.
fn delivered(scheduler: &mut Scheduler) -> Vec<Option<Vec<TokenScore>>> {
    let events = scheduler.take_events().into_iter();
    let tokens = events.filter_map(|event| match event {
        Event::Token { event, .. } => Some(event.prompt.map(Vec::from)),
        _ => None,
    });
    tokens.collect()
}

fn scoring(plan: &StepPlan) -> Vec<(u32, bool)> {
    let items = plan.work.iter();
    items.map(|item| (item.count, item.scores_prompt)).collect()
}

fn next(scheduler: &mut Scheduler, now: Instant) -> StepPlan {
    plans(scheduler, now).remove(0)
}

#[test]
fn the_scores_of_all_chunks_come_with_the_first_token() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(scored_request(80, 3), now).unwrap();
    let first = next(&mut scheduler, now);
    assert_eq!(scoring(&first), [(64, true)]);
    scheduler.on_outcome(scored(&first, 0, 1..65), now);
    let second = plans(&mut scheduler, now);
    assert_eq!(scoring(&second[0]), [(16, true)]);
    assert_eq!(scoring(&second[1]), [(1, false)], "a decode scores nothing");
    scheduler.on_outcome(scored(&second[0], 7, 65..80), now);
    scheduler.on_outcome(answer(&second[1], 7), now);
    let all: Vec<TokenScore> = (1..80).map(score).collect();
    assert_eq!(delivered(&mut scheduler), [Some(all), None]);
}

#[test]
fn a_prompt_of_one_token_has_an_empty_list() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(scored_request(1, 2), now).unwrap();
    let plan = next(&mut scheduler, now);
    assert_eq!(scoring(&plan), [(1, false)]);
    scheduler.on_outcome(answer(&plan, 7), now);
    assert_eq!(delivered(&mut scheduler), [Some(Vec::new())]);
}

/// A shard that scores as it is told, until nothing is left to do. Returns how many prompt tokens each step scored.
fn run(scheduler: &mut Scheduler, now: Instant, prompt: u32) -> Vec<usize> {
    let (mut air, mut fed, mut counts) = (VecDeque::new(), 0, Vec::new());
    for _ in 0..1_000 {
        air.extend(plans(scheduler, now));
        let Some(plan) = air.pop_front() else {
            break;
        };
        fed = if plan.admitted.is_empty() { fed } else { 0 };
        let begin = fed + 1;
        fed += plan.work.first().map_or(0, |item| item.count);
        let scores = plan.work.first().is_some_and(|item| item.scores_prompt);
        let end = if scores { prompt.min(fed + 1) } else { begin };
        let mut outcome = answer(&plan, 7);
        if let Some(row) = outcome.rows.first_mut() {
            row.prompt = (begin..end).map(score).collect();
            counts.push(row.prompt.len());
        }
        scheduler.on_outcome(outcome, now);
    }
    assert!(scheduler.at_rest(), "still running");
    counts
}

#[test]
fn a_scored_prompt_is_computed_whole_and_then_there_for_others() {
    let (mut scheduler, now) = ready_scheduler();
    for (asked, scores, hits) in [
        (request(40, 1), 0, 0),
        (scored_request(40, 1), 39, 0),
        (request(40, 1), 0, 39),
    ] {
        let before = scheduler.usage().totals.hit_tokens;
        scheduler.submit(asked, now).unwrap();
        assert_eq!(run(&mut scheduler, now, 40), [scores]);
        assert_eq!(scheduler.usage().totals.hit_tokens - before, hits);
    }
}

#[test]
fn after_a_failed_step_the_prompt_is_scored_anew_and_told_once() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(scored_request(80, 3), now).unwrap();
    let first = next(&mut scheduler, now);
    scheduler.on_outcome(scored(&first, 0, 1..65), now);
    for plan in plans(&mut scheduler, now) {
        scheduler.on_outcome(failure(&plan), now);
    }
    assert_eq!(run(&mut scheduler, now, 80), [64, 15, 0, 0]);
    let all: Vec<TokenScore> = (1..80).map(score).collect();
    assert_eq!(delivered(&mut scheduler), [Some(all), None, None]);
}

#[test]
fn what_was_told_is_not_scored_again_on_a_new_shard() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(scored_request(40, 3), now).unwrap();
    let first = next(&mut scheduler, now);
    scheduler.on_outcome(scored(&first, 7, 1..40), now);
    scheduler.on_lost("a test", now);
    scheduler.on_ready(description(), now);
    assert_eq!(run(&mut scheduler, now, 40), [0, 0]);
    assert_eq!(delivered(&mut scheduler).len(), 3);
}

#[test]
fn too_few_scores_or_unwanted_ones_are_no_answer() {
    for (asked, places) in [(scored_request(10, 2), 1..9), (request(10, 2), 1..2)] {
        let (mut scheduler, now) = ready_scheduler();
        scheduler.submit(asked, now).unwrap();
        let plan = next(&mut scheduler, now);
        scheduler.on_outcome(scored(&plan, 7, places), now);
        assert!(hung(&mut scheduler).is_some());
    }
}
