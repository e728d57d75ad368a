//! What the operator decides about scheduling; everything else follows from the shard's description.

use std::time::Duration;

/// Settings of one scheduler, already checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// Requests that may run or wait at once; the next one is refused. At least 1.
    pub max_concurrent_requests: u32,
    /// Prompt tokens that may wait; absent: four times what the KV memory holds.
    pub max_queued_tokens: Option<u64>,
    /// Sequences that may hold a slot at once; absent: as many as the step budget allows. At least 1.
    pub max_batch_size: Option<u32>,
    /// Longest prompt in tokens; absent: one less than the longest sequence.
    pub max_input_tokens: Option<u32>,
    /// How long a step may take; absent: max(30 s, 20 × the slowest warm-up step).
    pub step_timeout: Option<Duration>,
    /// How long sequences wait for a shard to come back.
    pub recovery_timeout: Duration,
    /// Show sequences what others have computed; otherwise only the sequences of one request share.
    pub prefix_caching: bool,
    /// Plans in flight at once: 2 keeps the shard busy while outcomes travel. At least 1.
    pub pipeline_depth: usize,
}

impl SchedulerSettings {
    /// The step deadline for a shard whose slowest warm-up step took `slowest`.
    pub fn step_deadline(&self, slowest: Duration) -> Duration {
        self.step_timeout
            .unwrap_or_else(|| Duration::from_secs(30).max(slowest * 20))
    }
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 128,
            max_queued_tokens: None,
            max_batch_size: None,
            max_input_tokens: None,
            step_timeout: None,
            recovery_timeout: Duration::from_mins(2),
            prefix_caching: true,
            pipeline_depth: 2,
        }
    }
}
