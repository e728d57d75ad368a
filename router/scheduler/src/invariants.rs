//! What must hold between any two calls, whatever happened. Tests call it after every step.

use std::collections::{HashMap, HashSet};

use ribbon_core::{Slot, Storage};
use thiserror::Error;

use crate::{
    gate::SequenceId,
    ribbons::State,
    scheduler::{Live, Scheduler},
};

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Violation(String);

macro_rules! hold {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(Violation(format!($($message)+)));
        }
    };
}

/// Checks slots, pages, places and the budget. Costs a walk over everything.
///
/// # Errors
/// The first thing that does not hold.
pub fn check(scheduler: &Scheduler) -> Result<(), Violation> {
    check_places(scheduler)?;
    check_seats(scheduler)?;
    if let Some(live) = &scheduler.live {
        check_pages(live)?;
        check_slots(scheduler, live)?;
        check_flights(scheduler, live)?;
    }
    Ok(())
}

/// Every sequence is in exactly one place.
fn check_places(scheduler: &Scheduler) -> Result<(), Violation> {
    let mut places: HashMap<SequenceId, u32> = HashMap::new();
    let queued = scheduler
        .sequences
        .keys()
        .filter(|id| scheduler.queue.contains(**id));
    let suspects = scheduler
        .recovery
        .waiting()
        .iter()
        .map(|suspect| suspect.id);
    let seated = scheduler.batch.iter().map(|(_, seat)| seat.sequence);
    let on_trial = scheduler.recovery.trial().iter().copied();
    let unseated = on_trial.filter(|id| {
        scheduler
            .sequences
            .get(id)
            .is_some_and(|sequence| sequence.seat.is_none())
    });
    for id in queued
        .copied()
        .chain(suspects)
        .chain(seated)
        .chain(unseated)
    {
        *places.entry(id).or_default() += 1;
    }
    for id in scheduler.sequences.keys() {
        let count = places.remove(id).unwrap_or_default();
        hold!(count == 1, "sequence {} is in {count} places", id.0);
    }
    hold!(
        places.is_empty(),
        "places of sequences that are gone: {places:?}"
    );
    Ok(())
}

fn check_seats(scheduler: &Scheduler) -> Result<(), Violation> {
    for (slot, seat) in scheduler.batch.iter() {
        let Some(sequence) = scheduler.sequences.get(&seat.sequence) else {
            return Err(Violation(format!("slot {} is held by nobody", slot.0)));
        };
        hold!(
            sequence.seat == Some(slot),
            "slot {} and its sequence disagree",
            slot.0
        );
        let ordered =
            seat.fed <= seat.planned && seat.planned <= seat.known && seat.known <= seat.total;
        hold!(ordered, "slot {}: counts out of order: {seat:?}", slot.0);
        hold!(
            sequence.known() <= seat.known,
            "slot {}: more tokens came than were planned",
            slot.0
        );
    }
    Ok(())
}

/// The sums are the sums of the parts, and what is owned fits the pool or is more only because the pool shrank.
fn check_pages(live: &Live) -> Result<(), Violation> {
    let ribbons = live.memory.ribbons();
    let (usage, counted) = (ribbons.usage(), ribbons.recount());
    hold!(
        usage == counted,
        "pages leak: {usage:?}, counted anew {counted:?}"
    );
    let mut owners: HashMap<Storage, u32> = HashMap::new();
    for (slot, ribbon) in ribbons.iter() {
        *owners.entry(ribbon.own).or_default() += 1;
        let own = ribbons.own(slot);
        let begins = ribbon.spans.last().map_or(0, |span| span.end);
        hold!(
            own.is_some_and(
                |extent| extent.state == State::Live && (begins == extent.start || begins == 0)
            ),
            "slot {} does not own what follows what it shows: {ribbon:?}, {own:?}",
            slot.0
        );
    }
    for (storage, extent) in ribbons.storages() {
        let writers = owners.remove(&storage).unwrap_or_default();
        let expected = u32::from(extent.state == State::Live);
        hold!(
            writers == expected,
            "storage {} is {:?} and has {writers} writers",
            storage.0,
            extent.state
        );
        hold!(
            extent.claimed() <= extent.end && extent.start <= extent.end,
            "storage {} is shown beyond its end: {extent:?}",
            storage.0
        );
        let is_cut = extent.state == State::Cached;
        let fits = |front: &u32| *front >= extent.start && (is_cut || *front <= extent.end);
        hold!(
            extent.fronts.iter().all(fits),
            "storage {} has a front outside of it: {extent:?}",
            storage.0
        );
    }
    hold!(
        owners.is_empty(),
        "storages that are written but not owned: {owners:?}"
    );
    live.memory.check().map_err(Violation)
}

/// A slot is free, seated or closing: one of them.
fn check_slots(scheduler: &Scheduler, live: &Live) -> Result<(), Violation> {
    let ribbons = live.memory.ribbons();
    let (free, closed) = ribbons.free_lists();
    let number = free.len() + closed.len();
    let free: HashSet<Slot> = free.iter().chain(closed).copied().collect();
    hold!(free.len() == number, "a slot is free twice");
    hold!(!free.contains(&Slot(0)), "slot 0 is reserved");
    let mut used: HashSet<Slot> = HashSet::new();
    let closing = live.closing.iter().map(|(slot, _)| slot);
    for slot in scheduler.batch.order().iter().chain(closing) {
        hold!(used.insert(*slot), "slot {} is used twice", slot.0);
        hold!(!free.contains(slot), "slot {} is used and free", slot.0);
    }
    let live_slots: HashSet<Slot> = ribbons.iter().map(|(slot, _)| slot).collect();
    hold!(
        used == live_slots,
        "used slots {used:?} but ribbons {live_slots:?}"
    );
    let all = used.len() + free.len();
    hold!(
        all == ribbons.usage().slots as usize,
        "slots are lost: {all} are left"
    );
    Ok(())
}

fn check_flights(scheduler: &Scheduler, live: &Live) -> Result<(), Violation> {
    let depth = scheduler.settings.pipeline_depth;
    hold!(
        live.flights.len() <= depth,
        "{} plans in flight, at most {depth}",
        live.flights.len()
    );
    for flight in &live.flights {
        let tokens: u32 = flight.rows.iter().map(|row| row.count).sum();
        let is_alone = live.prompt_runs.is_whole() && flight.rows.len() == 1;
        hold!(
            tokens <= live.budget || is_alone,
            "step {} has {tokens} tokens of {}",
            flight.step_id,
            live.budget
        );
        let slots: HashSet<Slot> = flight.rows.iter().map(|row| row.slot).collect();
        hold!(
            slots.len() == flight.rows.len(),
            "step {} has a slot twice",
            flight.step_id
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_leaked_page_is_caught() {
        let (mut scheduler, now) = testing::ready_scheduler();
        scheduler.submit(testing::request(10, 5), now).unwrap();
        scheduler.next_plan(now).unwrap();
        assert_eq!(check(&scheduler), Ok(()));
        scheduler
            .live
            .as_mut()
            .unwrap()
            .memory
            .ribbons_mut()
            .leak_a_page();
        assert!(
            check(&scheduler)
                .unwrap_err()
                .to_string()
                .contains("pages leak")
        );
    }

    #[test]
    fn a_slot_given_out_twice_is_caught() {
        let (mut scheduler, now) = testing::ready_scheduler();
        scheduler.submit(testing::request(10, 5), now).unwrap();
        let plan = scheduler.next_plan(now).unwrap();
        let slot = plan.work[0].slot;
        scheduler
            .live
            .as_mut()
            .unwrap()
            .memory
            .ribbons_mut()
            .free_twice(slot);
        assert!(
            check(&scheduler)
                .unwrap_err()
                .to_string()
                .contains("used and free")
        );
    }

    #[test]
    fn a_lost_sequence_is_caught() {
        let (mut scheduler, now) = testing::ready_scheduler();
        let id = scheduler.submit(testing::request(10, 5), now).unwrap();
        scheduler.queue.remove(id);
        assert!(
            check(&scheduler)
                .unwrap_err()
                .to_string()
                .contains("in 0 places")
        );
    }
}
