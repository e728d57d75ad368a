//! Makes the next plan: closes, all decodes, then prefill chunks in the order of `fairness`, under one token budget.

use std::time::Instant;

use ribbon_core::{Slot, StepPlan};

use crate::{
    batch::{Rank, Seat},
    fairness::{Chunks, Next, Prefill, SHORT_TOKENS, alone},
    gate::SequenceId,
    kv_memory::{Seated, Wish},
    memory_pressure::{LOOK_AHEAD_TOKENS, look_ahead},
    prefix_tree::Domain,
    scheduler::{Live, Scheduler},
    sequence::Sequence,
    step::Draft,
};

/// A prompt of more tokens takes many steps: one plan of them waits for the outcome of the one before.
const HUGE_PROMPT_TOKENS: u32 = 1024;

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
        if live.computes_long_chunk() && self.computes_huge_prompt() {
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

    /// A prompt that takes many steps is being computed: the next plan would have a part of it.
    fn computes_huge_prompt(&self) -> bool {
        let is_huge = |seat: &Seat| seat.prefills() && seat.known > HUGE_PROMPT_TOKENS;
        self.batch.iter().any(|(_, seat)| is_huge(seat))
    }

    /// Puts as many suspects on trial as fit together now.
    fn begin_trial(&mut self) {
        let Some(live) = &self.live else {
            return;
        };
        let ribbons = live.memory.ribbons();
        let mut pages = ribbons.uncommitted_pages();
        let group = self.recovery.next_group().iter().take(ribbons.free_slots());
        let fitting = group.take_while(|suspect| {
            let tokens = self
                .sequences
                .get(&suspect.id)
                .map_or(0, Sequence::kv_tokens);
            let rest = pages.checked_sub(ribbons.paging().most_pages(0, tokens));
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
        self.send_back_preempted();
        self.unpark();
        let mut draft = self.begin_draft(now)?;
        match turn {
            Turn::Trial => self.fill_trial(&mut draft, now),
            Turn::Everyone => self.fill_everyone(&mut draft, now),
        }
        self.relieve(draft.missing_pages, turn == Turn::Trial);
        Some(draft)
    }

    /// Decodes and prompts together, or a prompt alone that is not cut and too long for company.
    fn fill_everyone(&mut self, draft: &mut Draft, now: Instant) {
        let given = self.fill_alone(draft, now);
        let is_alone = given.is_some_and(|tokens| tokens > 0);
        if !is_alone {
            self.fill_decodes(draft);
        }
        if given.is_none() {
            self.fill_prefills(draft, now);
        }
        if let Some(live) = &mut self.live {
            live.decodes_are_due = is_alone;
        }
    }

    /// A plan that gives back what nobody needs any more.
    fn begin_draft(&mut self, now: Instant) -> Option<Draft> {
        let live = self.live.as_mut()?;
        let mut draft = Draft::new(live.next_step, live.budget, now);
        let ops = &mut draft.plan.ops;
        for (slot, fed) in live.closing.drain(..) {
            live.memory.close(slot, fed, ops);
        }
        for domain in live.forgotten.drain(..) {
            live.memory.forget_domain(&domain, ops);
        }
        draft.missing_pages = live.memory.shrink_to_pool(ops);
        Some(draft)
    }

    /// The oldest first: where pages run out, they had theirs.
    fn fill_decodes(&mut self, draft: &mut Draft) {
        let decoding = self.batch.iter().filter(|(_, seat)| seat.decodes());
        let mut slots: Vec<(Rank, Slot)> = decoding.map(|(slot, seat)| (seat.rank, slot)).collect();
        slots.sort_unstable();
        for (_, slot) in slots {
            self.feed(slot, 1, draft);
        }
    }

    /// Sequences of searches that go on: like decodes, but each in a slot of its own for one step. One whose tokens were
    /// evicted begins with one of them and goes on as a prompt.
    fn fill_lines(&mut self, draft: &mut Draft, now: Instant) {
        while draft.budget > 0
            && let Some(id) = self.next_line()
        {
            if self.admit(id, 1, draft, now) == 0 {
                return;
            }
        }
    }

    /// The sequence of a search whose turn it is; none where a newcomer would go instead of one that does not fit.
    fn next_line(&mut self) -> Option<SequenceId> {
        let goes_on = |this: &Self, id| this.sequences.get(&id).is_some_and(Sequence::goes_on);
        let first = self.queue.first()?;
        if !goes_on(self, first) {
            return None;
        }
        let (id, _) = self.next_admission()?;
        goes_on(self, id).then_some(id)
    }

    fn fill_prefills(&mut self, draft: &mut Draft, now: Instant) {
        let seated = self.seated_prefills();
        self.fill_lines(draft, now);
        if seated.is_empty() && self.next_admission().is_none() {
            return;
        }
        let Some(live) = &mut self.live else {
            return;
        };
        if live.computes_long_prompt() {
            return;
        }
        let bound = live.bound.allow(draft.decode_rows());
        let others = seated.len() + self.queue.len();
        let allowed = bound.min(alone(&seated, others, draft.budget));
        let mut chunks = Chunks::new(seated, draft.plan.step_id, allowed);
        while let Some(next) = chunks.next(self.next_admission()) {
            let (left, known) = self.rest_of(next);
            let given = self.fill_prompt(next, (left, chunks.limit(left, known)), draft, now);
            if given == 0 {
                return;
            }
            chunks.gave(given, left);
        }
    }

    /// Tokens that a prompt has to compute, and all that it knows.
    fn rest_of(&self, next: Next) -> (u32, u32) {
        match next {
            Next::Seated(slot) => {
                let seat = self.batch.get(slot);
                seat.map_or((0, 0), |seat| (seat.pending(), seat.known))
            }
            Next::Waiting(id) => {
                let known = self.sequences.get(&id).map_or(0, Sequence::known);
                (known, known)
            }
        }
    }

    /// Feeds a prompt with `left` tokens to compute at most `limit` of them, and gives it a slot before where it has none. Returns
    /// the tokens taken.
    fn fill_prompt(
        &mut self,
        next: Next,
        (left, limit): (u32, u32),
        draft: &mut Draft,
        now: Instant,
    ) -> u32 {
        let live = self.live.as_ref();
        match (
            live.and_then(|live| live.prompt_limit(left, limit, draft)),
            next,
        ) {
            (None, _) => 0,
            (Some(limit), Next::Seated(slot)) => self.feed(slot, limit, draft),
            (Some(limit), Next::Waiting(id)) => self.admit(id, limit, draft, now),
        }
    }

    /// Prompts that hold a slot, in the order they were seated.
    pub(crate) fn seated_prefills(&self) -> Vec<Prefill> {
        let prefilling = self.batch.iter().filter(|(_, seat)| seat.prefills());
        let prefill = |(slot, seat): (Slot, &Seat)| Prefill {
            slot,
            left: seat.pending(),
        };
        prefilling.map(prefill).collect()
    }

    /// Whose turn it is with the tokens it needs, if a slot and pages are free; else a short one. Those that wait for what
    /// others compute are parked on the way.
    pub(crate) fn next_admission(&mut self) -> Option<(SequenceId, u32)> {
        if self.recovery.blocked() {
            return None;
        }
        loop {
            let first = self.queue.first()?;
            if self.park(first) {
                continue;
            }
            let id = if self.fits(first) {
                first
            } else {
                self.short_one_that_fits()?
            };
            if !self.park(id) {
                return Some((id, self.sequences.get(&id)?.known()));
            }
        }
    }

    fn is_short(&self, id: SequenceId) -> bool {
        self.sequences
            .get(&id)
            .is_some_and(|sequence| sequence.kv_tokens() <= SHORT_TOKENS)
    }

    /// A slot and pages are free. Beside others, a long sequence leaves some for short ones; all but their own leave searches
    /// what they had in the round before.
    fn fits(&self, id: SequenceId) -> bool {
        let (Some(live), Some(sequence)) = (&self.live, self.sequences.get(&id)) else {
            return false;
        };
        let free = live.memory.ribbons().free_slots();
        if !sequence.goes_on() && free <= self.promised_seats() {
            return false;
        }
        let domain = sequence.domain(self.settings.prefix_caching);
        let wish = self.wish(sequence, &domain);
        let room = live.reserve(wish.is_alone);
        if self.is_short(id) || wish.is_alone {
            return live.memory.fits(&wish, room);
        }
        let (seats, pages) = live.room_for_short();
        free > seats && live.memory.fits(&wish, room + pages)
    }

    /// One that fits whatever others have computed: of many, so without a look-up for each.
    fn short_one_that_fits(&self) -> Option<SequenceId> {
        let live = self.live.as_ref()?;
        let ribbons = live.memory.ribbons();
        if ribbons.free_slots() <= self.promised_seats() {
            return None;
        }
        let left = ribbons.uncommitted_pages();
        let pages = left.checked_sub(live.reserve(false))?;
        // What so many tokens need only grows with them.
        let (mut tokens, mut too_many) = (0, SHORT_TOKENS + 1);
        while tokens + 1 < too_many {
            let middle = tokens.midpoint(too_many);
            if ribbons.paging().most_pages(0, middle) <= pages {
                tokens = middle;
            } else {
                too_many = middle;
            }
        }
        self.queue.instead(tokens, |one| {
            one.most_tokens <= SHORT_TOKENS && one.ahead <= tokens
        })
    }

    fn wish<'a>(&self, sequence: &'a Sequence, domain: &'a Domain) -> Wish<'a> {
        Wish {
            domain,
            history: sequence.history(),
            ahead: look_ahead(sequence),
            may_hit: sequence.may_hit() && self.shares_prompts(),
            may_share: !sequence.alone && self.shares_prompts(),
            is_alone: self.batch.len() == 0,
        }
    }

    /// Gives a sequence a slot and feeds its first chunk of at most `limit` tokens. Returns the tokens taken.
    pub(crate) fn admit(
        &mut self,
        id: SequenceId,
        limit: u32,
        draft: &mut Draft,
        now: Instant,
    ) -> u32 {
        let Some(Seated { slot, cached }) = self.take_seat(id, draft) else {
            return 0;
        };
        self.queue.take(id);
        let looks_up = self.shares_prompts();
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return 0;
        };
        // One that comes back finds its own tokens: that is no prefix in common.
        if sequence.started.is_none() && looks_up {
            self.totals.lookup_tokens += u64::from(sequence.known());
            self.totals.hit_tokens += u64::from(cached);
        }
        sequence.take_seat(slot, cached, now);
        self.batch.seat(slot, sequence, cached);
        draft.admit(sequence.admission(slot), sequence.goes_on());
        self.feed(slot, limit, draft)
    }

    fn take_seat(&mut self, id: SequenceId, draft: &mut Draft) -> Option<Seated> {
        let sequence = self.sequences.get(&id)?;
        let domain = sequence.domain(self.settings.prefix_caching);
        let wish = self.wish(sequence, &domain);
        self.live.as_mut()?.memory.open(&wish, &mut draft.plan.ops)
    }

    fn fill_trial(&mut self, draft: &mut Draft, now: Instant) {
        for id in self.recovery.trial().to_vec() {
            if draft.budget == 0 {
                return;
            }
            let seat = self.sequences.get(&id).and_then(|sequence| sequence.seat);
            let next = seat.map_or(Next::Waiting(id), Next::Seated);
            let (left, _) = self.rest_of(next);
            self.fill_prompt(next, (left, draft.budget), draft, now);
        }
    }

    /// Adds up to `limit` pending tokens of a slot to the plan, and the memory they need. Returns the tokens taken.
    pub(crate) fn feed(&mut self, slot: Slot, limit: u32, draft: &mut Draft) -> u32 {
        let (Some(live), Some(seat)) = (&mut self.live, self.batch.get(slot)) else {
            return 0;
        };
        let (sequence, decodes) = (seat.sequence, seat.decodes());
        let end = live.run_end(seat, limit, draft);
        if end == seat.planned {
            return 0;
        }
        let goal = (end + LOOK_AHEAD_TOKENS).min(seat.total - 1);
        if let Err(missing) = live.memory.feed(slot, end, goal, &mut draft.plan.ops) {
            draft.missing_pages += missing;
            return 0;
        }
        let Some(run) = self.batch.take_run(slot, end) else {
            return 0;
        };
        if decodes {
            draft.decode(sequence, run);
        } else {
            draft.chunk(sequence, run);
        }
        run.count
    }

    /// The plan leaves. What it closes is free for the next one.
    fn dispatch(&mut self, draft: Draft) -> Option<StepPlan> {
        let live: &mut Live = self.live.as_mut()?;
        if !draft.plan.ops.is_empty() {
            live.memory.release_closed();
            self.recovery.memory_freed();
        }
        let joined = self.batch.len() > draft.plan.admitted.len();
        let (plan, flight) = draft.finish(joined);
        live.flights.push_back(flight);
        live.next_step += 1;
        Some(plan)
    }
}
