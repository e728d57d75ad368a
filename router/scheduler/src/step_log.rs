//! One log line a second, at debug level, about what the steps carried. Knows reports and figures; decides nothing.

use std::time::{Duration, Instant};

use crate::{event::StepReport, usage::Usage};

/// How often a line is written while steps are made.
const EVERY: Duration = Duration::from_secs(1);

/// Steps since the last line.
#[derive(Debug)]
pub(crate) struct StepLog {
    since: Instant,
    sums: Sums,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    steps: u32,
    failed: u32,
    admitted: u32,
    decode_rows: u32,
    prefill_tokens: u32,
    busy: Duration,
}

impl StepLog {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            sums: Sums::default(),
        }
    }

    pub(crate) fn add(&mut self, report: &StepReport) {
        let sums = &mut self.sums;
        sums.steps += 1;
        sums.failed += u32::from(report.failed);
        sums.admitted += report.admitted;
        sums.decode_rows += report.decode_rows;
        sums.prefill_tokens += report.prefill_tokens;
        sums.busy += report.timings.total;
    }

    /// Writes the line if it is time and there is something to say.
    pub(crate) fn write(&mut self, usage: &Usage, now: Instant) {
        if now.saturating_duration_since(self.since) < EVERY {
            return;
        }
        self.since = now;
        let sums = std::mem::take(&mut self.sums);
        if sums.steps == 0 {
            return;
        }
        tracing::debug!(
            steps = sums.steps,
            failed = sums.failed,
            decodes_per_step = f64::from(sums.decode_rows) / f64::from(sums.steps),
            prompt_tokens = sums.prefill_tokens,
            admitted = sums.admitted,
            busy_ms = sums.busy.as_millis() as u64,
            running = usage.running,
            queued = usage.queued,
            queue_tokens = usage.queue_tokens,
            pages_live = usage.pages.live,
            pages_shared = usage.pages.shared,
            pages_cached = usage.pages.cached,
            pages = usage.pages.pool,
            "steps of the last second"
        );
    }
}
