//! One step under way: the plan as it is being filled, and what has to be remembered until its outcome is in.

use std::time::Instant;

use ribbon_core::{Admission, Slot, StepPlan, StepTimings, Wanted, WorkItem};

use crate::{
    batch::Run,
    event::{StepKind, StepReport},
    gate::SequenceId,
};

/// A row whose outcome is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightRow {
    pub(crate) sequence: SequenceId,
    pub(crate) slot: Slot,
    pub(crate) count: u32,
    pub(crate) wanted: Wanted,
    /// So many scores of prompt tokens are to come back.
    pub(crate) scores: u32,
}

/// A plan whose outcome is awaited.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) step_id: u64,
    pub(crate) rows: Vec<FlightRow>,
    /// When the shard could begin with it: sent, and the step before answered.
    pub(crate) began: Instant,
    pub(crate) prefill_tokens: u32,
    pub(crate) decode_rows: u32,
    /// Newcomers.
    pub(crate) admitted: u32,
    pub(crate) joined: bool,
}

impl Flight {
    pub(crate) fn kind(&self) -> StepKind {
        match (self.decode_rows, self.prefill_tokens) {
            (0, 0) => StepKind::Operations,
            (_, 0) => StepKind::Decode,
            (0, _) => StepKind::Prefill,
            _ => StepKind::Mixed,
        }
    }

    pub(crate) fn report(&self, timings: StepTimings, failed: bool, now: Instant) -> StepReport {
        StepReport {
            kind: self.kind(),
            admitted: self.admitted,
            joined: self.joined,
            prefill_tokens: self.prefill_tokens,
            decode_rows: self.decode_rows,
            timings,
            round_trip: now.saturating_duration_since(self.began),
            failed,
        }
    }
}

/// A plan that is being filled.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) plan: StepPlan,
    /// Tokens that still fit the step.
    pub(crate) budget: u32,
    /// Pages that were wanted and could not be had.
    pub(crate) missing_pages: u64,
    flight: Flight,
}

impl Draft {
    pub(crate) fn new(step_id: u64, budget: u32, now: Instant) -> Self {
        Self {
            plan: StepPlan {
                step_id,
                ..StepPlan::default()
            },
            budget,
            missing_pages: 0,
            flight: Flight {
                step_id,
                rows: Vec::new(),
                began: now,
                prefill_tokens: 0,
                decode_rows: 0,
                admitted: 0,
                joined: false,
            },
        }
    }

    /// Adds a decode.
    pub(crate) fn decode(&mut self, sequence: SequenceId, run: Run) {
        self.flight.decode_rows += 1;
        self.row(sequence, run);
    }

    /// Adds a prefill chunk.
    pub(crate) fn chunk(&mut self, sequence: SequenceId, run: Run) {
        self.flight.prefill_tokens += run.count;
        self.row(sequence, run);
    }

    fn row(&mut self, sequence: SequenceId, run: Run) {
        let Run {
            slot,
            count,
            wanted,
            scores,
            pooling,
        } = run;
        self.budget = self.budget.saturating_sub(count);
        self.plan.work.push(WorkItem {
            slot,
            count,
            wanted,
            scores_prompt: scores > 0,
            pools: pooling,
        });
        self.flight.rows.push(FlightRow {
            sequence,
            slot,
            count,
            wanted,
            scores,
        });
    }

    pub(crate) fn prefill_tokens(&self) -> u32 {
        self.flight.prefill_tokens
    }

    pub(crate) fn decode_rows(&self) -> u32 {
        self.flight.decode_rows
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.plan.work.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.plan.work.is_empty() && self.plan.ops.is_empty()
    }

    /// Adds a sequence that took a slot. One that goes on where another one ended is no newcomer in what is reported.
    pub(crate) fn admit(&mut self, admission: Admission, goes_on: bool) {
        self.flight.admitted += u32::from(!goes_on);
        self.plan.admitted.push(admission);
    }

    /// The plan to send and what to remember of it. `joined`: the admitted ones met others that ran already.
    pub(crate) fn finish(mut self, joined: bool) -> (StepPlan, Flight) {
        self.flight.joined = joined && self.flight.admitted > 0;
        (self.plan, self.flight)
    }
}
