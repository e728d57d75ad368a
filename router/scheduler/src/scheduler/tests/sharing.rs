//! Prefixes in common: who shows what, who waits, who gives way when pages run out.

use ribbon_core::{GroupOp, RibbonOp, StepOutcome, Storage};

use super::*;
use crate::testing::own_request;

fn ops(plan: &StepPlan) -> Vec<RibbonOp> {
    plan.ops.iter().map(|GroupOp { op, .. }| *op).collect()
}

/// Sends and answers plans until nothing is under way and nobody is left.
fn finish(scheduler: &mut Scheduler, now: Instant, token: u32) -> Vec<StepPlan> {
    let (mut air, mut all) = (VecDeque::new(), Vec::new());
    for _ in 0..10_000 {
        air.extend(plans(scheduler, now));
        let Some(plan) = air.pop_front() else {
            break;
        };
        scheduler.on_outcome(answer(&plan, token), now);
        all.push(plan);
    }
    assert!(scheduler.at_rest(), "still running");
    all
}

fn short(plan: &StepPlan) -> StepOutcome {
    StepOutcome {
        out_of_pages: true,
        ..failure(plan)
    }
}

fn cached_tokens(scheduler: &mut Scheduler, id: SequenceId) -> Vec<u32> {
    let events = scheduler.take_events().into_iter();
    let mine = events.filter_map(|event| match event {
        Event::Token { sequence, event } if sequence == id => Some(event.cached_tokens),
        _ => None,
    });
    mine.collect()
}

#[test]
fn the_next_turn_of_a_chat_goes_on_in_the_same_storage() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(request(40, 3), now).unwrap();
    finish(&mut scheduler, now, 7);
    let mut turn = request(40, 3);
    turn.prompt = turn.prompt.iter().copied().chain([7, 7, 99, 98]).collect();
    let id = scheduler.submit(turn, now).unwrap();
    let sent = plans(&mut scheduler, now);
    let open = RibbonOp::Open {
        slot: Slot(1),
        storage: Storage(1),
        tokens: 42,
    };
    assert_eq!(
        ops(&sent[0])[0],
        open,
        "40 + 3 tokens, of which the last was never fed"
    );
    assert_eq!(work(&sent[0]), [(1, 2)]);
    assert_eq!(sent[0].admitted[0].token_ids.len(), 44);
    scheduler.on_outcome(answer(&sent[0], 5), now);
    assert_eq!(cached_tokens(&mut scheduler, id), [42]);
}

#[test]
fn a_running_sequence_is_shown_as_far_as_it_is_computed() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(request(40, 50), now).unwrap();
    for plan in plans(&mut scheduler, now) {
        scheduler.on_outcome(answer(&plan, 7), now);
    }
    let mut longer = request(60, 3);
    longer.prompt = request(40, 3)
        .prompt
        .iter()
        .copied()
        .chain([7, 9, 9])
        .collect();
    scheduler.submit(longer, now).unwrap();
    let next = plans(&mut scheduler, now);
    let share = RibbonOp::Share {
        slot: Slot(2),
        storage: Storage(1),
        end: 41,
    };
    assert!(ops(&next[0]).contains(&share), "{:?}", next[0].ops);
    let pages = scheduler.usage().pages;
    assert_eq!(
        pages.shared, 11,
        "41 tokens of 1 KiB, generated ones too, counted once"
    );
}

#[test]
fn a_burst_computes_its_prefix_once_and_others_pass() {
    let (mut scheduler, now) = ready_scheduler();
    for _ in 0..5 {
        scheduler.submit(request(120, 2), now).unwrap();
    }
    scheduler.submit(own_request(5, 20, 2), now).unwrap();
    let all = finish(&mut scheduler, now, 7);
    let fed: u32 = all
        .iter()
        .flat_map(|plan| &plan.work)
        .map(|item| item.count)
        .sum();
    let decodes = 6;
    assert_eq!(
        fed,
        120 + 4 + 20 + decodes,
        "the last prompt token of each is its own"
    );
    let first_of = |id: u64| {
        let admits = |plan: &StepPlan| {
            plan.admitted
                .iter()
                .any(|admission| admission.sequence_id == id)
        };
        all.iter().position(admits).unwrap()
    };
    assert!(
        first_of(6) < first_of(2),
        "nobody waits for what he has no use for"
    );
    assert_eq!(scheduler.usage().totals.hit_tokens, 4 * 119);
}

#[test]
fn waiting_ends_with_the_prefill_that_was_waited_for() {
    let (mut scheduler, now) = ready_scheduler();
    let first = scheduler.submit(request(120, 2), now).unwrap();
    let second = scheduler.submit(request(120, 2), now).unwrap();
    let sent = scheduler.next_plan(now).unwrap();
    assert_eq!(sent.admitted.len(), 1);
    scheduler.cancel(first, now);
    scheduler.on_outcome(answer(&sent, 7), now);
    let next = scheduler.next_plan(now).unwrap();
    assert_eq!(next.admitted[0].sequence_id, second.0);
    check(&scheduler).unwrap();
}

#[test]
fn without_prefix_caching_only_the_sequences_of_one_request_share() {
    let now = Instant::now();
    let settings = SchedulerSettings {
        prefix_caching: false,
        ..SchedulerSettings::default()
    };
    let mut scheduler = Scheduler::new(settings, Gate::new(64, None));
    scheduler.on_ready(description(), now);
    let choices = vec![request(40, 3), request(40, 3), request(40, 3)];
    scheduler.submit_group(choices, now).unwrap();
    scheduler.submit(request(40, 3), now).unwrap();
    finish(&mut scheduler, now, 7);
    let usage = scheduler.usage();
    assert_eq!(usage.totals.hit_tokens, 2 * 39);
    assert_eq!(
        (usage.pages.cached, usage.pages.free()),
        (0, usage.pages.pool)
    );
}

#[test]
fn another_salt_shares_nothing() {
    let (mut scheduler, now) = ready_scheduler();
    for salt in ["a", "b"] {
        let mut salted = request(40, 3);
        salted.cache_salt = Some(salt.into());
        scheduler.submit(salted, now).unwrap();
        finish(&mut scheduler, now, 7);
    }
    assert_eq!(scheduler.usage().totals.hit_tokens, 0);
}

#[test]
fn a_cancelled_prefix_is_still_there_for_the_next() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(120, 2), now).unwrap();
    let sent = scheduler.next_plan(now).unwrap();
    assert_eq!(work(&sent), [(1, 64)]);
    scheduler.on_outcome(answer(&sent, 7), now);
    scheduler.cancel(id, now);
    finish(&mut scheduler, now, 7);
    scheduler.submit(request(120, 2), now).unwrap();
    let next = scheduler.next_plan(now).unwrap();
    assert_eq!(work(&next), [(1, 56)]);
}

#[test]
fn the_newest_gives_way_and_comes_back_with_what_it_had() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), Gate::new(64, None));
    let mut shard = description();
    // A page holds four tokens: 100 tokens and a little for two that want 200 each.
    shard.kv_groups[0].num_pages = 70;
    scheduler.on_ready(shard, now);
    let first = scheduler.submit(own_request(1, 20, 200), now).unwrap();
    let second = scheduler.submit(own_request(2, 20, 200), now).unwrap();
    let all = finish(&mut scheduler, now, 7);
    let events = scheduler.take_events();
    for id in [first, second] {
        let tokens = events
            .iter()
            .filter(|event| matches!(event, Event::Token { sequence, .. } if *sequence == id));
        assert_eq!(tokens.count(), 200, "nobody sees that pages were short");
    }
    let admitted: Vec<u64> = all
        .iter()
        .flat_map(|plan| &plan.admitted)
        .map(|admission| admission.sequence_id)
        .collect();
    assert_eq!(
        admitted.iter().filter(|id| **id == first.0).count(),
        1,
        "the oldest never gives way"
    );
    assert!(
        admitted.iter().filter(|id| **id == second.0).count() >= 2,
        "{admitted:?}"
    );
    assert!(
        (1..=3).contains(&scheduler.usage().totals.preemptions),
        "no coming and going in turns"
    );
}

#[test]
fn a_step_without_pages_makes_nobody_a_suspect() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(40, 3), now).unwrap();
    for _ in 0..5 {
        let sent = plans(&mut scheduler, now);
        scheduler.on_outcome(short(&sent[0]), now);
        for plan in &sent[1..] {
            let mut cancelled = answer(plan, 5);
            cancelled
                .rows
                .iter_mut()
                .for_each(|row| row.result = RowResult::Cancelled);
            scheduler.on_outcome(cancelled, now);
        }
        assert!(!scheduler.sequences[&id].is_suspect());
    }
    finish(&mut scheduler, now, 7);
    assert_eq!(tokens(&mut scheduler, id).len(), 3);
}

#[test]
fn the_snapshot_names_slots_storages_and_spans() {
    let (mut scheduler, now) = ready_scheduler();
    scheduler.submit(request(40, 50), now).unwrap();
    for plan in plans(&mut scheduler, now) {
        scheduler.on_outcome(answer(&plan, 7), now);
    }
    let second = scheduler.submit(request(60, 3), now).unwrap();
    plans(&mut scheduler, now);
    let snapshot = scheduler.snapshot().unwrap();
    assert_eq!(snapshot.slots.len(), 2);
    assert_eq!(snapshot.slots[1].sequence, Some(second.0));
    assert_eq!(
        (
            snapshot.slots[1].spans[0].begin,
            snapshot.slots[1].spans[0].end
        ),
        (0, 40)
    );
    assert_eq!(snapshot.storages[0].readers, [2]);
    let pages = snapshot.pages;
    assert_eq!(
        pages.total,
        pages.live + pages.shared + pages.cached + pages.free
    );
}

/// A scheduler with so many pages of four tokens each.
fn small(pages: u64) -> (Scheduler, Instant) {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), Gate::new(64, None));
    let mut shard = description();
    shard.kv_groups[0].num_pages = pages;
    scheduler.on_ready(shard, now);
    (scheduler, now)
}

#[test]
fn one_that_comes_back_counts_once_as_a_look_up_and_pays_once() {
    let (mut scheduler, now) = small(70);
    for own in [1, 2] {
        scheduler.submit(own_request(own, 20, 200), now).unwrap();
    }
    finish(&mut scheduler, now, 7);
    let totals = scheduler.usage().totals;
    assert!(totals.preemptions > 0);
    assert_eq!((totals.lookup_tokens, totals.hit_tokens), (40, 0));
    assert_eq!(scheduler.queue.served(""), 2 * (20 + 200));
}

#[test]
fn one_that_did_without_others_shares_again_once_it_gets_on() {
    let (mut scheduler, now) = ready_scheduler();
    let id = scheduler.submit(request(80, 50), now).unwrap();
    let sent = plans(&mut scheduler, now);
    scheduler.sequences.get_mut(&id).unwrap().alone = true;
    scheduler.batch.get_mut(Slot(1)).unwrap().leaves = true;
    for plan in &sent {
        scheduler.on_outcome(answer(plan, 7), now);
    }
    assert!(scheduler.sequences[&id].alone, "it leaves: not yet");
    for plan in plans(&mut scheduler, now) {
        assert!(scheduler.sequences[&id].alone, "its history is not fed");
        scheduler.on_outcome(answer(&plan, 7), now);
    }
    for plan in plans(&mut scheduler, now) {
        scheduler.on_outcome(answer(&plan, 7), now);
    }
    assert!(scheduler.sequences[&id].may_hit());
}

#[test]
fn one_that_does_without_others_holds_on_to_nothing_of_theirs() {
    let (mut scheduler, now) = small(70);
    scheduler.submit(request(80, 4), now).unwrap();
    finish(&mut scheduler, now, 7);
    assert!(scheduler.usage().pages.cached > 0);
    let paging = |scheduler: &Scheduler, tokens| {
        let live = scheduler.live.as_ref().unwrap();
        live.memory.ribbons().paging().most_pages(0, tokens)
    };
    let all = (81..400)
        .find(|all| paging(&scheduler, *all) == 70)
        .unwrap();
    let id = scheduler.submit(request(80, all - 80), now).unwrap();
    scheduler.sequences.get_mut(&id).unwrap().alone = true;
    finish(&mut scheduler, now, 8);
    assert_eq!(scheduler.usage().totals.preemptions, 0);
}

#[test]
fn a_long_prompt_gets_its_memory_though_short_ones_come_and_go_in_turns() {
    let (mut scheduler, now) = small(90);
    let long = scheduler.submit(own_request(900, 300, 4), now).unwrap();
    let mut air = VecDeque::new();
    for own in 1..5_000 {
        while scheduler.queue.len() < 8 {
            let next = 1_000 + own * 10 + scheduler.queue.len() as u32;
            scheduler.submit(own_request(next, 20, 100), now).unwrap();
        }
        air.extend(plans(&mut scheduler, now));
        let plan = air.pop_front().unwrap();
        scheduler.on_outcome(answer(&plan, 7), now);
        if !tokens(&mut scheduler, long).is_empty() {
            assert!(scheduler.usage().totals.preemptions > 0);
            return;
        }
    }
    panic!("{:?}", scheduler.usage());
}
