//! Whose turn it is, who is refused, and whose time is over.

use super::*;

#[test]
fn a_short_prompt_is_computed_before_the_long_ones_that_came_first() {
    let (mut scheduler, now) = ready_scheduler();
    for _ in 0..8 {
        scheduler.submit(request(400, 9), now).unwrap();
    }
    let mut flights: VecDeque<StepPlan> = plans(&mut scheduler, now).into();
    let short = scheduler.submit(request(100, 9), now).unwrap();
    assert_eq!(
        (flights.len(), scheduler.next_plan(now)),
        (1, None),
        "a newcomer never waits for two chunks"
    );
    for _ in 0..5 {
        scheduler.on_outcome(answer(&flights.pop_front().unwrap(), 5), now);
        if !tokens(&mut scheduler, short).is_empty() {
            return;
        }
        flights.extend(plans(&mut scheduler, now));
    }
    panic!("its two steps did not come among the next few");
}

#[test]
fn a_deadline_ends_a_sequence_wherever_it_is() {
    let (mut scheduler, now) = ready_scheduler();
    let later = now + Duration::from_secs(5);
    let with = |prompt, deadline| SequenceRequest {
        deadline: Some(deadline),
        ..request(prompt, 9)
    };
    let running = scheduler.submit(with(10, later), now).unwrap();
    let plan = scheduler.next_plan(now).unwrap();
    scheduler.on_outcome(answer(&plan, 5), now);
    assert_eq!(tokens(&mut scheduler, running).len(), 1);
    let queued = scheduler.submit(with(20, later), now).unwrap();
    let patient = scheduler.submit(request(30, 9), now).unwrap();
    assert_eq!(scheduler.deadline(), Some(later));
    scheduler.on_time(later);
    assert_eq!(
        errors(&mut scheduler),
        [
            (running, StreamError::Expired),
            (queued, StreamError::Expired)
        ]
    );
    let admitted = scheduler.next_plan(later).unwrap().admitted;
    let ids: Vec<u64> = admitted.iter().map(|one| one.sequence_id).collect();
    assert_eq!(ids, [patient.0], "the expired one never reaches the shard");
}

#[test]
fn waiting_prompt_tokens_are_bounded_but_one_request_always_fits() {
    let gate = Gate::new(64, Some(100));
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), gate.clone());
    let now = Instant::now();
    scheduler.on_ready(description(), now);
    scheduler.submit(request(300, 4), now).unwrap();
    assert_eq!(gate.queued_tokens(), 300);
    let refusal = scheduler.submit(request(10, 4), now).unwrap_err();
    assert!(
        matches!(
            refusal,
            Refusal::QueueFull {
                queued: 300,
                limit: 100,
                ..
            }
        ),
        "{refusal}"
    );
    assert_eq!(gate.room(1).unwrap_err(), refusal);
    scheduler.next_plan(now).unwrap();
    assert_eq!(gate.queued_tokens(), 0, "it has begun");
    scheduler.submit(request(60, 4), now).unwrap();
    scheduler.submit(request(40, 4), now).unwrap();
    assert!(gate.room(1).is_err());
    assert_eq!(gate.occupied(), 3, "a refused request holds no place");
}

#[test]
fn a_group_is_taken_as_one_request_or_not_at_all() {
    let gate = Gate::new(2, None);
    let mut scheduler = Scheduler::new(SchedulerSettings::default(), gate.clone());
    let now = Instant::now();
    scheduler.on_ready(description(), now);
    let group = scheduler.submit_group(vec![request(4, 4); 3], now).unwrap();
    assert_eq!((group.len(), gate.occupied()), (3, 1));
    let groups: Vec<_> = group
        .iter()
        .map(|id| scheduler.sequences[id].group())
        .collect();
    assert!(groups.iter().all(|one| *one == groups[0]));
    let misfit = scheduler.submit_group(vec![request(4, 4), request(500, 14)], now);
    assert!(matches!(misfit, Err(Refusal::NeverFits { .. })));
    assert_eq!((gate.occupied(), scheduler.sequences.len()), (1, 3));
    for id in group {
        assert_eq!(gate.occupied(), 1);
        scheduler.finish(id, now);
    }
    assert_eq!(gate.occupied(), 0);
    assert!(scheduler.take_events().is_empty(), "nobody went away");
}
