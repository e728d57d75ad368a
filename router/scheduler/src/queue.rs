//! First come, first served. Holds ids only; a cancelled one is skipped when its turn comes.

use std::collections::{HashSet, VecDeque};

use crate::gate::SequenceId;

/// Sequences without a slot, in the order they will get one.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    order: VecDeque<SequenceId>,
    /// Those in `order` that have not left it by cancellation.
    waiting: HashSet<SequenceId>,
    /// Known tokens of everything that waits.
    tokens: u64,
}

impl Queue {
    /// A new sequence, behind all others.
    pub(crate) fn push(&mut self, id: SequenceId, tokens: u32) {
        self.order.push_back(id);
        self.enter(id, tokens);
    }

    /// A sequence that lost its slot through no fault of its own, before all others.
    pub(crate) fn push_front(&mut self, id: SequenceId, tokens: u32) {
        self.order.push_front(id);
        self.enter(id, tokens);
    }

    fn enter(&mut self, id: SequenceId, tokens: u32) {
        self.waiting.insert(id);
        self.tokens += u64::from(tokens);
    }

    /// The next sequence; cancelled ones in front of it are forgotten.
    pub(crate) fn first(&mut self) -> Option<SequenceId> {
        while let Some(id) = self.order.front() {
            if self.waiting.contains(id) {
                return Some(*id);
            }
            self.order.pop_front();
        }
        None
    }

    /// Takes a sequence out, wherever it is. Says whether it was there.
    pub(crate) fn remove(&mut self, id: SequenceId, tokens: u32) -> bool {
        let waited = self.waiting.remove(&id);
        if waited {
            self.tokens -= u64::from(tokens);
            self.forget_the_cancelled();
        }
        waited
    }

    /// Ids of cancelled sequences never pile up behind one that waits long.
    fn forget_the_cancelled(&mut self) {
        self.first();
        if self.order.len() > 2 * self.waiting.len() + 64 {
            self.order.retain(|id| self.waiting.contains(id));
        }
    }

    pub(crate) fn contains(&self, id: SequenceId) -> bool {
        self.waiting.contains(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_sequence_is_skipped() {
        let mut queue = Queue::default();
        for id in 1..=3 {
            queue.push(SequenceId(id), 10);
        }
        assert!(queue.remove(SequenceId(2), 10));
        assert!(!queue.remove(SequenceId(2), 10));
        assert!(queue.remove(SequenceId(1), 10));
        assert_eq!(queue.first(), Some(SequenceId(3)));
        assert_eq!((queue.len(), queue.tokens()), (1, 10));
    }

    #[test]
    fn one_that_lost_its_slot_goes_before_the_others() {
        let mut queue = Queue::default();
        queue.push(SequenceId(1), 4);
        queue.push_front(SequenceId(2), 8);
        assert_eq!(queue.first(), Some(SequenceId(2)));
        assert_eq!(queue.tokens(), 12);
    }
}
