//! What comes out of the state machine besides plans: tokens, ends, and figures for the metrics.

use std::time::{Duration, Instant};

use ribbon_core::{StepTimings, StreamError, TokenEvent};

use crate::gate::SequenceId;

/// Something that happened, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A sequence got a token; the last one carries its finish reason.
    Token {
        /// Whose.
        sequence: SequenceId,
        /// The token.
        event: TokenEvent,
    },
    /// A sequence ended without a finish reason.
    Failed {
        /// Which.
        sequence: SequenceId,
        /// Why.
        error: StreamError,
    },
    /// A sequence was cancelled.
    Cancelled {
        /// Where it was.
        stage: CancelStage,
    },
    /// A sequence's time was over; it has failed too.
    Expired {
        /// Where it was.
        stage: CancelStage,
    },
    /// The generation of shards has to be replaced.
    Hung {
        /// The step it hangs in.
        step_id: u64,
        /// When that step should have been over; absent where something else is wrong.
        due: Option<Instant>,
    },
    /// The generation of shards is lost.
    Lost {
        /// Suspects were in the plans in flight, so isolation explains the loss.
        suspects_running: bool,
    },
    /// A step's outcome is in.
    Step(StepReport),
}

/// Where a cancelled sequence was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelStage {
    /// Without a slot.
    Queued,
    /// In a slot, with prompt tokens still to feed.
    Prefill,
    /// Generating.
    Decode,
}

impl CancelStage {
    /// Every stage.
    pub const ALL: [Self; 3] = [Self::Queued, Self::Prefill, Self::Decode];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// What kinds of work a step carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Only decodes.
    Decode,
    /// Only prefill chunks.
    Prefill,
    /// Both.
    Mixed,
    /// Only memory operations.
    Operations,
}

impl StepKind {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
            Self::Mixed => "mixed",
            Self::Operations => "operations",
        }
    }
}

/// Figures of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// What it carried.
    pub kind: StepKind,
    /// Sequences that took a slot with it.
    pub admitted: u32,
    /// They joined sequences that ran already.
    pub joined: bool,
    /// Prompt tokens fed.
    pub prefill_tokens: u32,
    /// Decode rows.
    pub decode_rows: u32,
    /// What the shard measured.
    pub timings: StepTimings,
    /// From the plan's turn (sent, and the step before answered) to its outcome, as the router saw it.
    pub round_trip: Duration,
    /// The whole step failed.
    pub failed: bool,
}
