//! Makes the next plan: closes, all decodes, then prefill chunks in the order of `fairness`, under one token budget.

use std::time::Instant;

use ribbon_core::{Slot, StepPlan};

use crate::{
    batch::Seat,
    fairness::{Chunks, Next, Prefill, ROOM_FOR_SHORT, SHORT_TOKENS},
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
            draft.push(live.ribbons.close(slot));
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
        let seated = self.seated_prefills();
        if seated.is_empty() && self.next_admission().is_none() {
            return;
        }
        let Some(live) = &mut self.live else {
            return;
        };
        if live.computes_long_prompt() {
            return;
        }
        let allowed = live.bound.allow(draft.decode_rows()).min(draft.budget);
        let mut chunks = Chunks::new(seated, draft.plan.step_id, allowed);
        while let Some(next) = chunks.next(self.next_admission()) {
            let (left, given) = match next {
                Next::Seated(slot) => {
                    let left = self.batch.get(slot).map_or(0, Seat::pending);
                    (left, self.feed(slot, chunks.limit(left), draft))
                }
                Next::Waiting(id) => {
                    let left = self.sequences.get(&id).map_or(0, Sequence::known);
                    (left, self.admit(id, chunks.limit(left), draft, now))
                }
            };
            if given == 0 {
                return;
            }
            chunks.gave(given, left);
        }
    }

    /// Prompts that hold a slot, in the order they were seated.
    fn seated_prefills(&self) -> Vec<Prefill> {
        let prefilling = self.batch.iter().filter(|(_, seat)| seat.prefills());
        let prefill = |(slot, seat): (Slot, &Seat)| Prefill {
            slot,
            left: seat.pending(),
        };
        prefilling.map(prefill).collect()
    }

    /// Whose turn it is with the tokens it needs, if a slot and pages for its worst case are free; else a short one.
    fn next_admission(&mut self) -> Option<(SequenceId, u32)> {
        if self.recovery.blocked() {
            return None;
        }
        let first = self.queue.first()?;
        let id = if self.fits(first) {
            first
        } else {
            self.queue
                .instead(|id| self.is_short(id) && self.fits(id))?
        };
        Some((id, self.sequences.get(&id)?.known()))
    }

    fn is_short(&self, id: SequenceId) -> bool {
        self.sequences
            .get(&id)
            .is_some_and(|sequence| sequence.kv_tokens() <= SHORT_TOKENS)
    }

    /// A slot and pages are free. Beside others, a long sequence leaves some for short ones.
    fn fits(&self, id: SequenceId) -> bool {
        let (Some(live), Some(sequence)) = (&self.live, self.sequences.get(&id)) else {
            return false;
        };
        let (slots, pages) = (live.ribbons.free_slots(), live.ribbons.free_pages());
        let needed = live.ribbons.pages(sequence.kv_tokens());
        if self.is_short(id) || self.batch.len() == 0 {
            return slots > 0 && needed <= pages;
        }
        let usage = live.ribbons.usage();
        let room = u64::from(ROOM_FOR_SHORT) * live.ribbons.pages(SHORT_TOKENS);
        // Where the memory is small, so much room would be a large part of it.
        let room = if room <= usage.pool / 8 { room } else { 0 };
        let seats = if usage.slots >= 8 * ROOM_FOR_SHORT {
            ROOM_FOR_SHORT
        } else {
            0
        };
        slots > seats as usize && needed + room <= pages
    }

    /// Gives a sequence a slot and feeds its first chunk of at most `limit` tokens. Returns the tokens taken.
    fn admit(&mut self, id: SequenceId, limit: u32, draft: &mut Draft, now: Instant) -> u32 {
        let (Some(live), Some(sequence)) = (&mut self.live, self.sequences.get_mut(&id)) else {
            return 0;
        };
        let Some((slot, open)) = live.ribbons.open(sequence.kv_tokens()) else {
            return 0;
        };
        self.queue.take(id);
        sequence.seat = Some(slot);
        sequence.begin(now);
        self.batch.seat(slot, sequence);
        draft.plan.admitted.push(sequence.admission(slot));
        draft.push(open);
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
        if let Some(op) = live.ribbons.feed(slot, seat.planned) {
            draft.push(op);
        }
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
