//! Who may have broken a step, and in which order sequences come back. Knows ids and counts; not slots, not the shard.
//!
//! After a failure everyone else goes on first. Suspects then come back in *trials*: steps that carry nobody else, at most
//! four of them together, one that failed twice alone, until each has passed the point where it failed.

use foldhash::HashSet;

use crate::gate::SequenceId;

/// Suspects that come back together.
pub(crate) const TRIAL_SIZE: usize = 4;
/// A sequence that fails alone with so many failures is given up.
pub(crate) const FAILURES_TO_END: u32 = 2;

/// A suspect without a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suspect {
    /// First: those with fewer failures come back first, they are less likely to be the culprit.
    pub(crate) failures: u32,
    /// Then in order of arrival.
    pub(crate) id: SequenceId,
}

/// Suspects and their turn.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// Sorted.
    waiting: Vec<Suspect>,
    trial: Vec<SequenceId>,
    /// Innocent ones that lost their slot and have not reached their old length again.
    returning: HashSet<SequenceId>,
    /// Everyone else gets a plan before the next trial.
    others_owed: bool,
    /// The next trial waits for slots or pages, so nobody new may take them.
    blocked: bool,
}

impl Recovery {
    pub(crate) fn suspect(&mut self, suspect: Suspect) {
        let place = self.waiting.partition_point(|other| *other < suspect);
        self.waiting.insert(place, suspect);
    }

    pub(crate) fn returns(&mut self, id: SequenceId) {
        self.returning.insert(id);
    }

    pub(crate) fn caught_up(&mut self, id: SequenceId) {
        self.returning.remove(&id);
    }

    /// The sequence is gone, whatever it was.
    pub(crate) fn forget(&mut self, id: SequenceId) {
        self.returning.remove(&id);
        self.waiting.retain(|suspect| suspect.id != id);
        self.acquit(id);
        self.blocked &= !self.waiting.is_empty();
    }

    /// A suspect gives up its slot before it is cleared.
    pub(crate) fn leave_trial(&mut self, id: SequenceId) {
        self.trial.retain(|member| *member != id);
    }

    /// A suspect is cleared.
    pub(crate) fn acquit(&mut self, id: SequenceId) {
        let before = self.trial.len();
        self.trial.retain(|member| *member != id);
        if before > 0 && self.trial.is_empty() {
            self.others_owed = true;
        }
    }

    /// A step failed, whoever was in it: a trial is over, its members are suspects again or gone, and everyone else goes
    /// on first.
    pub(crate) fn break_off(&mut self) {
        self.trial.clear();
        self.blocked = false;
        self.others_owed = true;
    }

    /// Who is on trial now; nobody else may be in a plan while anyone is.
    pub(crate) fn trial(&self) -> &[SequenceId] {
        &self.trial
    }

    pub(crate) fn waiting(&self) -> &[Suspect] {
        &self.waiting
    }

    /// A trial should begin as soon as nothing is in flight.
    pub(crate) fn is_due(&self) -> bool {
        self.trial.is_empty()
            && !self.waiting.is_empty()
            && !self.others_owed
            && self.returning.is_empty()
            && !self.blocked
    }

    /// The suspects that would come back next, most of them that may come together.
    pub(crate) fn next_group(&self) -> &[Suspect] {
        let together = self.waiting.iter().take(TRIAL_SIZE);
        let most = together
            .take_while(|suspect| suspect.failures < FAILURES_TO_END)
            .count();
        self.waiting.get(..most.max(1)).unwrap_or_default()
    }

    /// Puts the first `count` suspects on trial; with none, the trial waits for memory and nobody new comes in.
    pub(crate) fn begin(&mut self, count: usize) {
        self.blocked = count == 0;
        self.trial
            .extend(self.waiting.drain(..count).map(|suspect| suspect.id));
    }

    /// Slots or pages came back: a blocked trial may try again.
    pub(crate) fn memory_freed(&mut self) {
        self.blocked = false;
    }

    pub(crate) fn blocked(&self) -> bool {
        self.blocked
    }

    /// Everyone else had a plan, or has nothing to do.
    pub(crate) fn others_served(&mut self) {
        self.others_owed = false;
    }

    /// Nobody but suspects has anything to do: no reason to wait for the others.
    pub(crate) fn others_idle(&mut self) {
        self.others_owed = false;
        self.blocked = false;
        self.returning.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery(failures: &[u32]) -> Recovery {
        let mut recovery = Recovery::default();
        for (id, failures) in failures.iter().enumerate() {
            recovery.suspect(Suspect {
                failures: *failures,
                id: SequenceId(id as u64),
            });
        }
        recovery
    }

    #[test]
    fn four_come_back_together_and_the_twice_failed_alone_and_last() {
        let mut recovery = recovery(&[1, 2, 1, 1, 2, 1, 1]);
        let mut groups = Vec::new();
        while recovery.is_due() {
            let size = recovery.next_group().len();
            recovery.begin(size);
            groups.push(recovery.trial().iter().map(|id| id.0).collect::<Vec<_>>());
            for id in recovery.trial().to_vec() {
                recovery.acquit(id);
            }
            assert!(!recovery.is_due(), "the others have a turn in between");
            recovery.others_served();
        }
        assert_eq!(groups, [vec![0, 2, 3, 5], vec![6], vec![1], vec![4]]);
    }

    #[test]
    fn the_innocent_go_first() {
        let mut recovery = recovery(&[1]);
        recovery.returns(SequenceId(9));
        assert!(!recovery.is_due());
        recovery.caught_up(SequenceId(9));
        assert!(recovery.is_due());
    }

    #[test]
    fn a_trial_that_waits_for_memory_is_tried_again_when_some_comes_back() {
        let mut recovery = recovery(&[1]);
        recovery.begin(0);
        assert!(recovery.blocked() && !recovery.is_due());
        recovery.memory_freed();
        assert!(recovery.is_due());
    }
}
