//! Makes the next plan: closes, all decodes, then prefill chunks first come first served, under one token budget.

use std::time::Instant;

use ribbon_core::{Slot, StepPlan};

use crate::{
    batch::Seat,
    gate::SequenceId,
    scheduler::{Live, Scheduler},
    sequence::Sequence,
    step::Draft,
};

/// Whose plan is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Everyone,
    Trial,
}

impl Scheduler {
    /// The next plan to send, if one should leave now. Call until it returns `None`.
    pub fn next_plan(&mut self, now: Instant) -> Option<StepPlan> {
        for _ in 0..2 {
            let turn = self.turn()?;
            let draft = self.fill(turn, now)?;
            if draft.has_work() && turn == Turn::Everyone {
                self.recovery.others_served();
            }
            if !draft.is_empty() {
                return self.dispatch(draft);
            }
            if !self.other_turn_instead(turn) {
                return None;
            }
        }
        None
    }

    /// `None`: no plan may leave now.
    fn turn(&mut self) -> Option<Turn> {
        let live = self.live.as_ref()?;
        if live.settling || live.flights.len() >= self.settings.pipeline_depth {
            return None;
        }
        if self.recovery.is_due() {
            if !live.flights.is_empty() {
                return None;
            }
            self.begin_trial();
        }
        let on_trial = !self.recovery.trial().is_empty();
        Some(if on_trial {
            Turn::Trial
        } else {
            Turn::Everyone
        })
    }

    /// Puts as many suspects on trial as fit together now.
    fn begin_trial(&mut self) {
        let Some(live) = &self.live else {
            return;
        };
        let mut pages = live.ribbons.free_pages();
        let group = self
            .recovery
            .next_group()
            .iter()
            .take(live.ribbons.free_slots());
        let fitting = group.take_while(|suspect| {
            let tokens = self
                .sequences
                .get(&suspect.id)
                .map_or(0, Sequence::kv_tokens);
            let rest = pages.checked_sub(live.ribbons.pages(tokens));
            pages = rest.unwrap_or_default();
            rest.is_some()
        });
        let count = fitting.count();
        self.recovery.begin(count);
    }

    /// The plan came out empty. With nothing in flight either, those who wait for their turn get it: suspects, or
    /// everyone else when the pool shrank under a trial. Says whether to look again.
    fn other_turn_instead(&mut self, turn: Turn) -> bool {
        let nothing_runs = self
            .live
            .as_ref()
            .is_some_and(|live| live.flights.is_empty());
        if !nothing_runs || turn == Turn::Everyone && self.recovery.waiting().is_empty() {
            return false;
        }
        match turn {
            Turn::Everyone => self.recovery.others_idle(),
            Turn::Trial => {
                self.break_off_trial();
                self.recovery.begin(0);
            }
        }
        true
    }

    fn fill(&mut self, turn: Turn, now: Instant) -> Option<Draft> {
        let live = self.live.as_mut()?;
        let mut draft = Draft::new(live.next_step, live.budget, now);
        for slot in live.closing.drain(..) {
            draft.plan.ops.push(live.ribbons.close(slot));
        }
        match turn {
            Turn::Trial => self.fill_trial(&mut draft, now),
            Turn::Everyone => {
                self.fill_decodes(&mut draft);
                self.fill_prefills(&mut draft, now);
            }
        }
        Some(draft)
    }

    fn fill_decodes(&mut self, draft: &mut Draft) {
        let decoding = self.batch.iter().filter(|(_, seat)| seat.decodes());
        let slots: Vec<Slot> = decoding.map(|(slot, _)| slot).collect();
        for slot in slots {
            self.feed(slot, 1, draft);
        }
    }

    fn fill_prefills(&mut self, draft: &mut Draft, now: Instant) {
        let prefilling = self.batch.iter().filter(|(_, seat)| seat.prefills());
        let slots: Vec<Slot> = prefilling.map(|(slot, _)| slot).collect();
        if slots.is_empty() && self.next_admission().is_none() {
            return;
        }
        let Some(live) = &mut self.live else {
            return;
        };
        let mut allowed = live.bound.allow(draft.decode_rows()).min(draft.budget);
        for slot in slots {
            allowed -= self.feed(slot, allowed, draft);
        }
        while allowed > 0 {
            let Some(id) = self.next_admission() else {
                return;
            };
            allowed -= self.admit(id, allowed, draft, now);
        }
    }

    /// The head of the queue, if a slot and pages for its worst case are free.
    fn next_admission(&mut self) -> Option<SequenceId> {
        if self.recovery.blocked() {
            return None;
        }
        let live = self.live.as_ref()?;
        let id = self.queue.first()?;
        let needed = live.ribbons.pages(self.sequences.get(&id)?.kv_tokens());
        (live.ribbons.free_slots() > 0 && needed <= live.ribbons.free_pages()).then_some(id)
    }

    /// Gives a sequence a slot and feeds its first chunk of at most `limit` tokens. Returns the tokens taken.
    fn admit(&mut self, id: SequenceId, limit: u32, draft: &mut Draft, now: Instant) -> u32 {
        let (Some(live), Some(sequence)) = (&mut self.live, self.sequences.get_mut(&id)) else {
            return 0;
        };
        let Some((slot, open)) = live.ribbons.open(sequence.kv_tokens()) else {
            return 0;
        };
        self.queue.remove(id, sequence.known());
        sequence.seat = Some(slot);
        sequence.started.get_or_insert(now);
        self.batch.seat(slot, sequence);
        draft.plan.admitted.push(sequence.admission(slot));
        draft.plan.ops.push(open);
        self.feed(slot, limit, draft)
    }

    fn fill_trial(&mut self, draft: &mut Draft, now: Instant) {
        for id in self.recovery.trial().to_vec() {
            if draft.budget == 0 {
                return;
            }
            match self.sequences.get(&id).and_then(|sequence| sequence.seat) {
                Some(slot) => self.feed(slot, draft.budget, draft),
                None => self.admit(id, draft.budget, draft, now),
            };
        }
    }

    /// Adds up to `limit` pending tokens of a slot to the plan, and the memory they need. Returns the tokens taken.
    fn feed(&mut self, slot: Slot, limit: u32, draft: &mut Draft) -> u32 {
        let limit = limit.min(draft.budget);
        let decodes = self.batch.get(slot).is_some_and(Seat::decodes);
        let Some(run) = self.batch.take_run(slot, limit) else {
            return 0;
        };
        let (Some(live), Some(seat)) = (&mut self.live, self.batch.get(slot)) else {
            return 0;
        };
        draft.plan.ops.extend(live.ribbons.feed(slot, seat.planned));
        if decodes {
            draft.decode(seat.sequence, run);
        } else {
            draft.chunk(seat.sequence, run);
        }
        run.count
    }

    /// The plan leaves. What it closes is free for the next one.
    fn dispatch(&mut self, draft: Draft) -> Option<StepPlan> {
        let live: &mut Live = self.live.as_mut()?;
        if !draft.plan.ops.is_empty() {
            live.ribbons.release_closed();
            self.recovery.memory_freed();
        }
        let joined = self.batch.len() > draft.plan.admitted.len();
        let (plan, flight) = draft.finish(joined);
        live.flights.push_back(flight);
        live.next_step += 1;
        Some(plan)
    }
}
