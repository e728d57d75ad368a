//! What happens when pages run short: how far ahead admission looks, who gives way, and how it comes back. Knows ranks and
//! page counts; the pages themselves are in `kv_memory`.
//!
//! The oldest sequence of the lowest priority number never gives way to others, so somebody always gets on; one that gave way
//! comes back only where it fits with what those that run may soon want, so nobody comes and goes in turns.

use ribbon_core::Slot;

use crate::{
    batch::{Rank, Seat},
    fairness::{ROOM_FOR_SHORT, SHORT_TOKENS},
    gate::SequenceId,
    scheduler::{Live, Scheduler},
    sequence::Sequence,
};

/// Tokens beyond the known ones for which a sequence should find pages when it gets a slot, and while it runs.
pub(crate) const LOOK_AHEAD_TOKENS: u32 = 64;
/// Of so many of the newest, the one that is cheapest to rebuild gives way.
const NEWEST: usize = 4;
/// After so many steps in a row without pages, sequences come back one at a time.
const SHORT_STEPS_TO_CROWD_NOBODY: u32 = 6;

/// Tokens for which a sequence should find pages when it gets a slot.
pub(crate) fn look_ahead(sequence: &Sequence) -> u32 {
    (sequence.known() + LOOK_AHEAD_TOKENS).min(sequence.kv_tokens())
}

impl Live {
    /// Pages that admission leaves alone because the shard says it had none where our account said otherwise: half of them
    /// after one step without pages, three quarters after two in a row, and so on.
    pub(crate) fn reserve(&self, is_alone: bool) -> u64 {
        let pool = self.memory.usage().pool;
        match self.short_steps {
            0 => 0,
            _ if is_alone => 0,
            SHORT_STEPS_TO_CROWD_NOBODY.. => pool,
            steps => pool - (pool >> steps),
        }
    }

    /// Slots and pages that a long sequence leaves for short ones.
    pub(crate) fn room_for_short(&self) -> (usize, u64) {
        let usage = self.memory.usage();
        let short = self.memory.ribbons().paging().most_pages(0, SHORT_TOKENS);
        let pages = u64::from(ROOM_FOR_SHORT) * short;
        let is_wide = usage.slots >= 8 * ROOM_FOR_SHORT;
        // Where the memory is small, so much room would be a large part of it.
        let pages = if pages <= usage.pool / 8 { pages } else { 0 };
        (if is_wide { ROOM_FOR_SHORT as usize } else { 0 }, pages)
    }
}

impl Scheduler {
    /// `missing` pages were wanted and not to be had: so many sequences leave that they will be there soon.
    pub(crate) fn relieve(&mut self, missing: u64, on_trial: bool) {
        if missing == 0 {
            return;
        }
        let leaving = self.batch.iter().filter(|(_, seat)| seat.leaves);
        let mut promised: u64 = leaving.map(|(slot, _)| self.own_pages(slot)).sum();
        while promised < missing {
            let Some((slot, id)) = self.victim(on_trial) else {
                return;
            };
            promised += self.own_pages(slot);
            let is_last = self.batch.iter().filter(|(_, seat)| !seat.leaves).count() == 1;
            if is_last || on_trial {
                self.do_without_others(id);
            }
            if let Some(seat) = self.batch.get_mut(slot) {
                seat.leaves = true;
            }
        }
    }

    /// Pages that come back when the slot is given up.
    fn own_pages(&self, slot: Slot) -> u64 {
        let own = |live: &Live| {
            let extent = live.memory.ribbons().own(slot)?;
            let ribbons = live.memory.ribbons();
            let all = ribbons.paging().pages(&extent.fronts, extent.end);
            Some(all - ribbons.claimed_pages(extent, extent.claimed()))
        };
        self.live.as_ref().and_then(own).unwrap_or_default()
    }

    /// It fits the pool alone; what it shows of others made it larger.
    fn do_without_others(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.alone = true;
        }
    }

    /// Of the newest sequences, the one that is cheapest to rebuild. The oldest only where nobody else is left.
    fn victim(&self, on_trial: bool) -> Option<(Slot, SequenceId)> {
        let trial = self.recovery.trial();
        let staying = self.batch.iter().filter(|(_, seat)| !seat.leaves);
        let suits = |seat: &Seat| !on_trial || trial.contains(&seat.sequence);
        let mut ranked: Vec<(Rank, Slot)> = staying
            .filter(|(_, seat)| suits(seat))
            .map(|(slot, seat)| (seat.rank, slot))
            .collect();
        ranked.sort_unstable();
        let anyone_leaves = self.batch.iter().any(|(_, seat)| seat.leaves);
        let newest = match ranked.as_slice() {
            [] => return None,
            // Those that leave will make room; without any, it is in its own way.
            [_] if anyone_leaves => return None,
            [only] => std::slice::from_ref(only),
            [_oldest, rest @ ..] => rest.rchunks(NEWEST).next().unwrap_or_default(),
        };
        let priority = newest.last().map(|((priority, _), _)| *priority);
        let equals = newest
            .iter()
            .filter(|((other, _), _)| Some(*other) == priority);
        let cheapest = equals.min_by_key(|(_, slot)| self.own_pages(*slot));
        cheapest.map(|((_, id), slot)| (*slot, *id))
    }

    /// Those that gave way and have nothing in flight any more wait for their next turn, before everyone new.
    pub(crate) fn send_back_preempted(&mut self) {
        let gone = self
            .batch
            .iter()
            .filter(|(_, seat)| seat.leaves && !seat.is_awaited());
        let ids: Vec<SequenceId> = gone.map(|(_, seat)| seat.sequence).collect();
        for id in ids {
            self.totals.preemptions += 1;
            self.give_way(id);
        }
    }
}
