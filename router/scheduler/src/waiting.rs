//! Who waits for tokens that a running sequence is about to compute: a burst of requests with one prefix computes it once.
//! Knows histories and seats; not pages.

use crate::{batch::Seat, gate::SequenceId, scheduler::Scheduler, sequence::Sequence};

/// Nobody waits for fewer tokens than this: computing them again costs less than a step's wait.
const LEAST_GAIN_TOKENS: u32 = 16;

/// A sequence without a slot that waits for another one's outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    id: SequenceId,
    /// Who computes.
    source: SequenceId,
    /// Until so many of its tokens are in the KV.
    until: u32,
}

impl Scheduler {
    /// Whether a queued sequence should wait; if so it is passed over from now on.
    pub(crate) fn park(&mut self, id: SequenceId) -> bool {
        let Some(parked) = self.should_wait(id) else {
            return false;
        };
        self.queue.park(id);
        self.parked.push(parked);
        true
    }

    /// Those whose wait is over have their turn again.
    pub(crate) fn unpark(&mut self) {
        let parked = std::mem::take(&mut self.parked);
        for wait in parked {
            if self.goes_on(&wait) {
                self.parked.push(wait);
            } else {
                self.queue.unpark(wait.id);
            }
        }
    }

    fn goes_on(&self, wait: &Parked) -> bool {
        self.sequences.contains_key(&wait.id)
            && self
                .prefill_of(wait.source)
                .is_some_and(|seat| seat.fed < wait.until)
    }

    /// The seat of a sequence whose known tokens are not all computed yet.
    fn prefill_of(&self, id: SequenceId) -> Option<&Seat> {
        let sequence = self.sequences.get(&id)?;
        let seat = self.batch.get(sequence.seat?)?;
        let computes = !seat.leaves && !sequence.is_suspect() && seat.fed < sequence.known();
        computes.then_some(seat)
    }

    /// The running sequence that is about to compute most of what `id` begins with, if that is worth a wait.
    fn should_wait(&self, id: SequenceId) -> Option<Parked> {
        let sequence = self
            .sequences
            .get(&id)
            .filter(|sequence| sequence.may_hit() && self.shares_prompts())?;
        let sources = self.batch.iter().map(|(_, seat)| seat);
        let sources = sources.filter(|seat| seat.fed + LEAST_GAIN_TOKENS < seat.known);
        let waits = sources.filter_map(|seat| self.wait_for(sequence, seat));
        let best = waits.max_by_key(|wait| wait.until)?;
        let domain = sequence.domain(self.settings.prefix_caching);
        let memory = &self.live.as_ref()?.memory;
        let there = memory.cached_tokens(&domain, sequence.history());
        (there + LEAST_GAIN_TOKENS <= best.until).then_some(best)
    }

    fn wait_for(&self, sequence: &Sequence, seat: &Seat) -> Option<Parked> {
        self.prefill_of(seat.sequence)?;
        let source = self.sequences.get(&seat.sequence)?;
        let caching = self.settings.prefix_caching;
        if source.domain(caching) != sequence.domain(caching) {
            return None;
        }
        let most = sequence.known() - 1;
        let same = sequence.history().in_common_with(0, &source.history());
        let until = same.min(most);
        (until >= seat.fed + LEAST_GAIN_TOKENS).then_some(Parked {
            id: sequence.id(),
            source: source.id(),
            until,
        })
    }
}
