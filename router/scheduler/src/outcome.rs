//! Takes outcomes and failures: tokens to their sequences, suspects to recovery. Never makes a plan.

use std::{collections::BTreeSet, time::Instant};

use ribbon_core::{RowOutcome, RowResult, StepOutcome, StreamError, Token, TokenScore, Wanted};

use crate::{
    event::{Event, StepKind},
    gate::SequenceId,
    scheduler::{Live, Scheduler},
    sequence::Suspicion,
    step::{Flight, FlightRow},
};

/// A shard that fails so many steps in a row is replaced, whoever the suspects are.
const FAILED_STEPS_TO_REPLACE: u32 = 8;
/// The same for steps without pages; the last of them carried one sequence each.
const SHORT_STEPS_TO_REPLACE: u32 = 16;

impl Scheduler {
    /// Takes one plan's answer. An answer that cannot be is treated like a crash.
    pub fn on_outcome(&mut self, outcome: StepOutcome, now: Instant) {
        let Some(live) = &mut self.live else {
            return;
        };
        if !live
            .flights
            .front()
            .is_some_and(|flight| answers(&outcome, flight))
        {
            self.declare_hung("its outcome does not match the plan", now);
            return;
        }
        let Some(flight) = live.land(&outcome, now) else {
            return;
        };
        let failed = outcome.failure.is_some();
        let report = flight.report(outcome.timings, failed, now);
        self.prefill_rate
            .record(report.prefill_tokens, report.round_trip, now);
        self.events.push(Event::Step(report));
        match outcome.failure {
            Some(_) if outcome.out_of_pages => self.on_short_step(&flight, now),
            Some(reason) => self.on_failed_step(&flight, &reason, now),
            None => self.on_rows(flight, outcome.rows, now),
        }
        if outcome.pages_available.is_some() {
            self.end_misfits(now);
        }
        if let Some(live) = &mut self.live {
            live.settling &= !live.flights.is_empty();
        }
    }

    fn on_rows(&mut self, flight: Flight, outcomes: Vec<RowOutcome>, now: Instant) {
        for (row, outcome) in flight.rows.into_iter().zip(outcomes) {
            if !self.on_row(row, outcome, now) {
                self.declare_hung("a row's outcome does not match the plan", now);
                return;
            }
        }
    }

    /// Says whether the answer can be. Rows of sequences that are gone or lost their slot say nothing any more.
    fn on_row(&mut self, row: FlightRow, outcome: RowOutcome, now: Instant) -> bool {
        if self.batch.held_by(row.slot, row.sequence).is_none() {
            return true;
        }
        if !brings_what_was_wanted(&row, &outcome) {
            return false;
        }
        match (outcome.result, row.wanted) {
            (RowResult::Fed, Wanted::Nothing) => self.on_fed(row, outcome.prompt),
            (RowResult::Fed, Wanted::End) => {
                self.on_fed(row, outcome.prompt);
                return self.on_end(row.sequence, outcome.pooled, now);
            }
            (RowResult::Sampled { token, stopped }, Wanted::Sample) => {
                self.on_fed(row, outcome.prompt);
                self.on_token(row.sequence, token, stopped, now);
            }
            (RowResult::Failed { message }, _) => {
                self.fail(row.sequence, StreamError::Generation(message), now);
            }
            (RowResult::Cancelled, _) if self.is_settling() => self.send_back(row.sequence),
            _ => return false,
        }
        true
    }

    /// A step failed whose successors are still in the air.
    fn is_settling(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.settling)
    }

    /// A run's tokens are in the KV for sure: others may show them.
    fn on_fed(&mut self, row: FlightRow, prompt: Vec<TokenScore>) {
        let Some(seat) = self.batch.held_by(row.slot, row.sequence) else {
            return;
        };
        seat.fed += row.count;
        let (fed, leaves) = (seat.fed, seat.leaves);
        if let (Some(live), Some(sequence)) =
            (&mut self.live, self.sequences.get_mut(&row.sequence))
        {
            live.memory.computed(row.slot, sequence.history(), fed);
            if row.scores > 0 {
                sequence.score_prompt(fed - row.count, prompt);
            }
            // One that leaves was told to do without others the next time, which has not come yet.
            sequence.alone &= leaves || fed < sequence.known();
            let is_past = |suspicion: &mut Suspicion| fed >= suspicion.cleared_at;
            if sequence.suspicion.take_if(is_past).is_some() {
                self.recovery.acquit(row.sequence);
            }
        }
    }

    fn on_token(&mut self, id: SequenceId, token: Token, stopped: bool, now: Instant) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        let event = sequence.accept(token, stopped);
        let ended = event.finish.is_some();
        self.recovery.caught_up(id);
        self.events.push(Event::Token {
            sequence: id,
            event,
        });
        if ended {
            self.remove(id, now);
        }
    }

    /// The prompt was read and nothing is to follow. Says whether it was pooled as wanted.
    fn on_end(&mut self, id: SequenceId, pooled: Vec<f32>, now: Instant) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return true;
        };
        if sequence.request.pooling.is_some() == pooled.is_empty() {
            return false;
        }
        let event = sequence.conclude(pooled);
        self.recovery.caught_up(id);
        self.events.push(Event::Token {
            sequence: id,
            event,
        });
        self.remove(id, now);
        true
    }

    /// The shard had no pages where our account said otherwise: no sequence is to blame, all of the step come back with what
    /// they have, fewer at a time.
    fn on_short_step(&mut self, flight: &Flight, now: Instant) {
        let Some(live) = &mut self.live else {
            return;
        };
        live.settling = true;
        live.short_steps += 1;
        live.bound.forget_probe();
        let beyond_repair = live.short_steps >= SHORT_STEPS_TO_REPLACE;
        tracing::warn!(
            step = flight.step_id,
            rows = flight.rows.len(),
            "the shard ran out of pages"
        );
        // One that got its slot with this plan and no row would not hear of its loss.
        let idle = self
            .batch
            .iter()
            .map(|(_, seat)| seat)
            .filter(|seat| !seat.is_awaited());
        let idle: Vec<SequenceId> = idle.map(|seat| seat.sequence).collect();
        let seated: Vec<SequenceId> = self.seated(&flight.rows).chain(idle).collect();
        for id in seated.into_iter().rev() {
            self.give_way(id);
        }
        if beyond_repair {
            self.declare_hung("it has no pages for a sequence that fits", now);
        }
    }

    fn on_failed_step(&mut self, flight: &Flight, reason: &str, now: Instant) {
        let Some(live) = &mut self.live else {
            return;
        };
        live.settling = true;
        live.failed_in_a_row += 1;
        live.bound.forget_probe();
        let beyond_repair = live.failed_in_a_row >= FAILED_STEPS_TO_REPLACE;
        tracing::warn!(
            step = flight.step_id,
            rows = flight.rows.len(),
            reason,
            "a step failed"
        );
        let suspects: Vec<SequenceId> = self.seated(&flight.rows).collect();
        self.accuse_all(&suspects, flight.rows.len() == 1, reason, now);
        for id in suspects {
            self.send_back(id);
        }
        self.break_off_trial();
        if beyond_repair {
            self.declare_hung("steps keep failing", now);
        }
    }

    /// Everyone loses the slot; those in flight become suspects.
    pub(crate) fn recover_from_loss(&mut self, live: &Live, reason: &str, now: Instant) {
        let rows = || live.flights.iter().flat_map(|flight| &flight.rows);
        let in_flight: BTreeSet<SequenceId> = rows().map(|row| row.sequence).collect();
        let suspects: BTreeSet<SequenceId> = self.seated(rows()).collect();
        let suspects_running = suspects.iter().any(|id| self.is_suspect(*id));
        tracing::warn!(
            reason,
            running = self.batch.len(),
            suspects = suspects.len(),
            "the shard is lost"
        );
        let suspects: Vec<SequenceId> = suspects.into_iter().collect();
        self.accuse_all(&suspects, in_flight.len() == 1, reason, now);
        let seated: Vec<SequenceId> = self.batch.iter().map(|(_, seat)| seat.sequence).collect();
        for id in seated.into_iter().rev() {
            self.send_back(id);
        }
        self.break_off_trial();
        self.events.push(Event::Lost { suspects_running });
    }

    /// Sequences of these rows that still hold the slot.
    fn seated<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a FlightRow>,
    ) -> impl Iterator<Item = SequenceId> {
        let holds = |row: &&FlightRow| {
            self.batch
                .get(row.slot)
                .is_some_and(|seat| seat.sequence == row.sequence)
        };
        rows.into_iter().filter(holds).map(|row| row.sequence)
    }

    fn is_suspect(&self, id: SequenceId) -> bool {
        self.sequences
            .get(&id)
            .is_some_and(crate::sequence::Sequence::is_suspect)
    }

    fn accuse_all(&mut self, suspects: &[SequenceId], alone: bool, reason: &str, now: Instant) {
        for id in suspects {
            self.accuse(*id, alone, reason, now);
        }
    }

    /// Members of the trial that were not sent back yet wait for another one.
    pub(crate) fn break_off_trial(&mut self) {
        let members = self.recovery.trial().to_vec();
        self.recovery.break_off();
        for id in members {
            let sent_back = self
                .recovery
                .waiting()
                .iter()
                .any(|suspect| suspect.id == id);
            if !sent_back {
                self.send_back(id);
            }
        }
    }
}

impl Live {
    /// Takes the oldest plan out of the air and learns from its figures.
    fn land(&mut self, outcome: &StepOutcome, now: Instant) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        if let Some(next) = self.flights.front_mut() {
            next.began = now;
        }
        if let Some(pages) = outcome.pages_available {
            self.memory.set_pool(pages);
        }
        if outcome.failure.is_none() && flight.kind() != StepKind::Operations {
            self.failed_in_a_row = 0;
            self.short_steps = 0;
            self.bound.observe(
                flight.decode_rows,
                flight.prefill_tokens,
                outcome.timings.total,
            );
        }
        Some(flight)
    }
}

/// Whether a run that was fed comes with as many scores as it was to have, and pooled states from the end of a prompt alone.
fn brings_what_was_wanted(row: &FlightRow, outcome: &RowOutcome) -> bool {
    match outcome.result {
        RowResult::Fed | RowResult::Sampled { .. } => {
            outcome.prompt.len() == row.scores as usize
                && (outcome.pooled.is_empty() || row.wanted == Wanted::End)
        }
        RowResult::Ended | RowResult::Failed { .. } | RowResult::Cancelled => {
            outcome.pooled.is_empty()
        }
    }
}

fn answers(outcome: &StepOutcome, flight: &Flight) -> bool {
    let same_rows = || {
        let slots = flight.rows.iter().map(|row| row.slot);
        slots.eq(outcome.rows.iter().map(|row| row.slot))
    };
    outcome.step_id == flight.step_id && (outcome.failure.is_some() || same_rows())
}
