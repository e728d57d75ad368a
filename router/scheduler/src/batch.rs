//! The sequences that hold a slot, in the order they got it, and how far plans have taken each. Knows counts; not tokens.

use ribbon_core::{Pooling, Slot, Wanted};

use crate::{gate::SequenceId, sequence::Sequence};

/// A sequence's place in the batch. All counts are tokens of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) sequence: SequenceId,
    /// Known, counting one more for each sample in flight.
    pub(crate) known: u32,
    /// In the KV once everything in flight is done.
    pub(crate) planned: u32,
    /// In the KV for sure: the outcome is in.
    pub(crate) fed: u32,
    /// Length at which the sequence ends by itself.
    pub(crate) total: u32,
    /// Tokens up to here score those behind them.
    pub(crate) scored: u32,
    /// All of its runs are pooled.
    pub(crate) pooling: Option<Pooling>,
    /// What the run that reaches the end of the known tokens yields.
    pub(crate) at_end: Wanted,
    /// Who gives way first when memory is short: the highest.
    pub(crate) rank: Rank,
    /// It feeds nothing more, and gives up its slot once everything in flight is in.
    pub(crate) leaves: bool,
}

/// Priority number, then order of arrival.
pub(crate) type Rank = (i32, SequenceId);

/// A run of tokens that a plan may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) slot: Slot,
    pub(crate) count: u32,
    /// What it yields.
    pub(crate) wanted: Wanted,
    /// So many prompt tokens are scored by those before them.
    pub(crate) scores: u32,
    /// Its states are pooled.
    pub(crate) pooling: Option<Pooling>,
}

impl Seat {
    /// `cached` tokens are in the KV already.
    fn new(sequence: &Sequence, cached: u32) -> Self {
        Self {
            sequence: sequence.id(),
            known: sequence.known(),
            planned: cached,
            fed: cached,
            total: sequence.total(),
            scored: sequence.scored_tokens(),
            pooling: sequence.request.pooling,
            at_end: if sequence.generates() {
                Wanted::Sample
            } else {
                Wanted::End
            },
            rank: (sequence.request.priority, sequence.id()),
            leaves: false,
        }
    }

    /// Tokens that are known and in no plan yet. The last token of a sequence is never fed.
    pub(crate) fn pending(&self) -> u32 {
        if self.leaves || self.known >= self.total {
            0
        } else {
            self.known - self.planned
        }
    }

    /// One token follows what is there already: a decode.
    pub(crate) fn decodes(&self) -> bool {
        self.pending() == 1 && self.planned > 0
    }

    /// More than one token is to be fed, or nothing has been yet.
    pub(crate) fn prefills(&self) -> bool {
        self.pending() > 0 && !self.decodes()
    }

    /// Rows of it are in flight.
    pub(crate) fn is_awaited(&self) -> bool {
        self.planned > self.fed
    }

    /// Takes `count` pending tokens into a plan. Says what the run yields; behind an end as behind a sample, the next token is
    /// the last one's successor, which nobody feeds.
    pub(crate) fn advance(&mut self, count: u32) -> Wanted {
        let reaches_end = count == self.pending();
        self.planned += count;
        self.known += u32::from(reaches_end);
        if reaches_end {
            self.at_end
        } else {
            Wanted::Nothing
        }
    }
}

/// Seats by slot number, and the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    seats: Vec<Option<Seat>>,
    order: Vec<Slot>,
}

impl Batch {
    pub(crate) fn seat(&mut self, slot: Slot, sequence: &Sequence, cached: u32) {
        let index = slot.0 as usize;
        if self.seats.len() <= index {
            self.seats.resize(index + 1, None);
        }
        if let Some(place) = self.seats.get_mut(index) {
            *place = Some(Seat::new(sequence, cached));
        }
        self.order.push(slot);
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Seat> {
        self.seats.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Seat> {
        self.seats.get_mut(slot.0 as usize)?.as_mut()
    }

    /// The seat in `slot`, if `sequence` still holds it.
    pub(crate) fn held_by(&mut self, slot: Slot, sequence: SequenceId) -> Option<&mut Seat> {
        self.get_mut(slot).filter(|seat| seat.sequence == sequence)
    }

    pub(crate) fn leave(&mut self, slot: Slot) -> Option<Seat> {
        let seat = self.seats.get_mut(slot.0 as usize)?.take();
        self.order.retain(|taken| *taken != slot);
        seat
    }

    /// Slots in the order they were taken.
    pub(crate) fn order(&self) -> &[Slot] {
        &self.order
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Seat)> {
        self.order
            .iter()
            .filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    /// Takes pending tokens of a slot up to the `end`th of its history into a plan.
    pub(crate) fn take_run(&mut self, slot: Slot, end: u32) -> Option<Run> {
        let seat = self.get_mut(slot)?;
        let count = seat.pending().min(end.saturating_sub(seat.planned));
        let before = seat.planned;
        (count > 0).then(|| Run {
            slot,
            count,
            wanted: seat.advance(count),
            pooling: seat.pooling,
            scores: seat.scored.min(seat.planned).saturating_sub(before),
        })
    }
}
