//! Searches: every round is new sequences that go on where others ended, under one place in the house.

use ribbon_core::{Line, Storage};

use super::*;
use crate::gate::Permit;

/// A prompt of 40 tokens and what was picked behind it.
fn line(generated: &[u32]) -> Line {
    Line {
        request: request(40, generated.len() as u32 + 1),
        generated: generated.to_vec(),
    }
}

/// A search whose prompt was computed; gives leave for its lines.
fn begun(scheduler: &mut Scheduler, now: Instant) -> Permit {
    let first = scheduler.gate.admit(&[request(40, 9)]).unwrap().remove(0);
    let place = first.further();
    scheduler.begin_search(place.group());
    let id = scheduler.enqueue_line(line(&[]), first, now);
    let plan = scheduler.next_plan(now).unwrap();
    scheduler.on_outcome(answer(&plan, 7), now);
    assert_eq!(
        tokens(scheduler, id),
        [(7, Some(FinishReason::Length))],
        "a round ends with its token"
    );
    place
}

/// A house of so many slots in which a search has begun.
fn searching_in(slots: u32) -> (Scheduler, Permit, Instant) {
    let settings = SchedulerSettings {
        max_batch_size: Some(slots),
        ..SchedulerSettings::default()
    };
    let mut scheduler = Scheduler::new(settings, Gate::new(64, None));
    let now = Instant::now();
    scheduler.on_ready(description(), now);
    let place = begun(&mut scheduler, now);
    (scheduler, place, now)
}

/// Sends the next round in.
fn round(
    scheduler: &mut Scheduler,
    place: &Permit,
    lines: &[&[u32]],
    now: Instant,
) -> Vec<SequenceId> {
    let ids = lines
        .iter()
        .map(|generated| scheduler.enqueue_line(line(generated), place.further(), now));
    ids.collect()
}

#[test]
fn lines_go_on_in_one_row_each_behind_what_was_computed() {
    let (mut scheduler, now) = ready_scheduler();
    let place = begun(&mut scheduler, now);
    let ids = round(&mut scheduler, &place, &[&[7], &[8]], now);
    let plan = scheduler.next_plan(now).unwrap();
    check(&scheduler).unwrap();
    assert_eq!(
        work(&plan).iter().map(|row| row.1).collect::<Vec<_>>(),
        [1, 1]
    );
    for admission in &plan.admitted {
        let last = admission.token_ids.last().copied().unwrap();
        assert_eq!(
            (admission.token_ids.len(), admission.prompt_tokens),
            (41, 40)
        );
        assert!([7, 8].contains(&last));
    }
    let shares = plan.ops.iter().filter_map(|op| match op.op {
        RibbonOp::Share { storage, end, .. } => Some((storage, end)),
        _ => None,
    });
    assert_eq!(
        shares.collect::<Vec<_>>(),
        [(Storage(1), 40)],
        "one goes on writing the storage, the other shows it"
    );
    scheduler.on_outcome(answer(&plan, 9), now);
    let events = scheduler.take_events();
    for id in ids {
        let ended = |event: &Event| {
            matches!(event, Event::Token { sequence, event }
                if *sequence == id && event.finish == Some(FinishReason::Length))
        };
        assert!(events.iter().any(ended));
    }
    let totals = &scheduler.usage().totals;
    assert_eq!(
        totals.hit_tokens, 0,
        "its own tokens are no prefix in common"
    );
}

#[test]
fn lines_wait_behind_no_newcomer_and_no_long_prompt() {
    let (mut scheduler, now) = ready_scheduler();
    let place = begun(&mut scheduler, now);
    for own in 1..4 {
        scheduler.submit(own_request(own, 400, 4), now).unwrap();
    }
    let mut air: VecDeque<StepPlan> = plans(&mut scheduler, now).into();
    let ids = round(&mut scheduler, &place, &[&[7], &[8]], now);
    while scheduler.sequences[&ids[0]].seat.is_none() {
        let landed = air
            .pop_front()
            .expect("a plan that made no room for the lines");
        scheduler.on_outcome(answer(&landed, 5), now);
        let plan = scheduler.next_plan(now).unwrap();
        let admitted: Vec<u64> = plan.admitted.iter().map(|one| one.sequence_id).collect();
        assert_eq!(admitted.len(), 2, "both, in the first plan that leaves");
        assert!(ids.iter().all(|id| admitted.contains(&id.0)));
        assert_eq!(plan.work.iter().filter(|item| item.count == 1).count(), 2);
    }
}

#[test]
fn newcomers_do_not_take_the_slots_of_a_search_between_two_rounds() {
    let (mut scheduler, place, now) = searching_in(3);
    round(&mut scheduler, &place, &[&[7], &[8]], now);
    for own in 1..4 {
        scheduler.submit(own_request(own, 30, 50), now).unwrap();
    }
    let plan = scheduler.next_plan(now).unwrap();
    assert_eq!(plan.admitted.len(), 2, "the lines alone");
    scheduler.on_outcome(answer(&plan, 9), now);
    let between = plans(&mut scheduler, now);
    let newcomers: usize = between.iter().map(|plan| plan.admitted.len()).sum();
    assert_eq!(newcomers, 1, "three slots, of which two are promised");
    for plan in between {
        scheduler.on_outcome(answer(&plan, 9), now);
    }
    let ids = round(&mut scheduler, &place, &[&[7, 5], &[8, 5]], now);
    let plan = scheduler.next_plan(now).unwrap();
    let admitted: Vec<u64> = plan.admitted.iter().map(|one| one.sequence_id).collect();
    assert!(
        ids.iter().all(|id| admitted.contains(&id.0)),
        "{admitted:?}"
    );
    scheduler.on_outcome(answer(&plan, 9), now);
    scheduler.end_search(place.group());
    let rest: Vec<StepPlan> = plans(&mut scheduler, now);
    let newcomers: usize = rest.iter().map(|plan| plan.admitted.len()).sum();
    assert!(newcomers > 0, "it is over");
}

#[test]
fn the_slots_of_a_search_that_is_over_are_for_all_though_its_request_has_another() {
    let (mut scheduler, place, now) = searching_in(2);
    scheduler.begin_search(place.group());
    for closing in plans(&mut scheduler, now) {
        scheduler.on_outcome(answer(&closing, 9), now);
    }
    round(&mut scheduler, &place, &[&[7], &[8]], now);
    let plan = scheduler.next_plan(now).unwrap();
    assert_eq!(plan.admitted.len(), 2, "both slots");
    let other = scheduler.enqueue_line(line(&[]), place.further(), now);
    scheduler.on_outcome(answer(&plan, 9), now);
    scheduler.end_search(place.group());
    scheduler.submit(own_request(1, 30, 50), now).unwrap();
    let rest = plans(&mut scheduler, now);
    let admitted: Vec<u64> = rest
        .iter()
        .flat_map(|plan| plan.admitted.iter().map(|one| one.sequence_id))
        .collect();
    assert_eq!(admitted.len(), 2, "{admitted:?}");
    assert!(admitted.contains(&other.0), "its sibling is one of them");
}

#[test]
fn sequences_that_never_had_a_slot_give_none_back() {
    let (mut scheduler, place, now) = searching_in(2);
    let others = [(); 3].map(|()| scheduler.enqueue_line(line(&[]), place.further(), now));
    for id in others {
        scheduler.cancel(id, now);
    }
    assert!(
        scheduler.promised_seats() <= 1,
        "the one of the first round"
    );
}

#[test]
fn a_full_house_never_refuses_a_line() {
    let gate = Gate::new(1, Some(1));
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), gate.clone());
    let now = Instant::now();
    scheduler.on_ready(description(), now);
    let place = begun(&mut scheduler, now);
    assert!(scheduler.submit(request(4, 4), now).is_err(), "one place");
    let ids = round(&mut scheduler, &place, &[&[7]], now);
    assert_eq!((gate.occupied(), gate.queued_tokens()), (1, 0));
    let plan = scheduler.next_plan(now).unwrap();
    scheduler.on_outcome(answer(&plan, 5), now);
    assert_eq!(tokens(&mut scheduler, ids[0]).len(), 1);
    assert!(!scheduler.is_idle(), "more is to come");
    drop(place);
    assert!(scheduler.is_idle());
}

#[test]
fn a_tenant_pays_for_the_prompt_once_and_for_each_token_once() {
    let (mut scheduler, now) = ready_scheduler();
    let place = begun(&mut scheduler, now);
    assert_eq!(scheduler.queue.served(""), 40 + 1);
    round(&mut scheduler, &place, &[&[7], &[8]], now);
    let plan = scheduler.next_plan(now).unwrap();
    scheduler.on_outcome(answer(&plan, 5), now);
    assert!(scheduler.sequences.is_empty());
    assert_eq!(scheduler.queue.served(""), 40 + 1 + 2);
}

#[test]
fn a_line_whose_tokens_are_gone_is_computed_anew() {
    let (mut scheduler, now) = ready_scheduler();
    let place = begun(&mut scheduler, now);
    scheduler.on_ready(description(), now);
    let ids = round(&mut scheduler, &place, &[&[7, 8]], now);
    let mut fed = 0;
    while scheduler.sequences.contains_key(&ids[0]) {
        let plan = scheduler.next_plan(now).unwrap();
        check(&scheduler).unwrap();
        assert!(plan.work.len() <= 1, "one row a slot: {:?}", work(&plan));
        fed += plan.work.iter().map(|item| item.count).sum::<u32>();
        scheduler.on_outcome(answer(&plan, 5), now);
    }
    assert_eq!(fed, 42);
    assert_eq!(
        tokens(&mut scheduler, ids[0]),
        [(5, Some(FinishReason::Length))]
    );
}

#[test]
fn a_line_outlives_the_shard_with_its_history() {
    let (mut scheduler, now) = ready_scheduler();
    let place = begun(&mut scheduler, now);
    let ids = round(&mut scheduler, &place, &[&[7, 8]], now);
    scheduler.next_plan(now).unwrap();
    scheduler.on_lost("killed", now);
    scheduler.on_ready(description(), now);
    let mut last = Vec::new();
    while scheduler.sequences.contains_key(&ids[0]) {
        let plan = scheduler.next_plan(now).unwrap();
        for admission in &plan.admitted {
            last = admission.token_ids[40..].to_vec();
        }
        scheduler.on_outcome(answer(&plan, 5), now);
    }
    assert_eq!(last, [7, 8]);
    assert_eq!(
        tokens(&mut scheduler, ids[0]),
        [(5, Some(FinishReason::Length))]
    );
}

#[test]
fn without_prefix_caching_a_search_keeps_its_own_tokens_while_it_lasts() {
    let settings = SchedulerSettings {
        prefix_caching: false,
        ..SchedulerSettings::default()
    };
    let mut scheduler = Scheduler::new(settings, Gate::new(64, None));
    let now = Instant::now();
    scheduler.on_ready(description(), now);
    let place = begun(&mut scheduler, now);
    round(&mut scheduler, &place, &[&[7]], now);
    let plan = scheduler.next_plan(now).unwrap();
    assert_eq!(work(&plan).iter().map(|row| row.1).collect::<Vec<_>>(), [1]);
    scheduler.on_outcome(answer(&plan, 5), now);
    plans(&mut scheduler, now);
    assert!(scheduler.usage().pages.cached > 0);
    scheduler.end_search(place.group());
    plans(&mut scheduler, now);
    assert_eq!(
        scheduler.usage().pages.cached,
        0,
        "nobody asks for them again"
    );
}
