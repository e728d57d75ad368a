//! Which sequence's time is over next. Holds ids only; one that has ended is skipped when its time comes.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use foldhash::HashMap;

use crate::{gate::SequenceId, sequence::Sequence};

/// Deadlines of sequences that have one, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BinaryHeap<Reverse<(Instant, SequenceId)>>);

impl Deadlines {
    pub(crate) fn add(&mut self, id: SequenceId, deadline: Option<Instant>) {
        self.0.extend(deadline.map(|at| Reverse((at, id))));
    }

    /// The earliest deadline of those in the heap: at most as late as that of any living sequence.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Sequences of `living` whose time is over. Others that have ended are forgotten on the way.
    pub(crate) fn due(
        &mut self,
        living: &HashMap<SequenceId, Sequence>,
        now: Instant,
    ) -> Vec<SequenceId> {
        if self.0.len() > 2 * living.len() + 64 {
            self.0.retain(|Reverse((_, id))| living.contains_key(id));
        }
        let mut due = Vec::new();
        while let Some(Reverse((at, id))) = self.0.peek().copied() {
            let is_living = living.contains_key(&id);
            if is_living && at > now {
                break;
            }
            self.0.pop();
            due.extend(is_living.then_some(id));
        }
        due
    }
}
