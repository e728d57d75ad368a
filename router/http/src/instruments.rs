//! Handles of the request-level metrics, looked up once; and the tally of one HTTP request, which is counted exactly once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, counter, histogram};
use ribbon_core::SequenceRequest;
use tokio::time::Instant;

use crate::error::{ApiError, Cause, rows};

/// Handles into the recorder.
pub(crate) struct Instruments {
    count: Counter,
    success: Counter,
    failures: Vec<(&'static str, Counter)>,
    duration: Histogram,
    validation: Histogram,
    queue: Histogram,
    inference: Histogram,
    time_per_token: Histogram,
    input_length: Histogram,
    max_new_tokens: Histogram,
    generated_tokens: Histogram,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) inter_token: Histogram,
    /// Tokens that a step accepted beyond the first.
    pub(crate) skipped_tokens: Histogram,
}

/// Where a finished request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    pub(crate) validation: Duration,
    pub(crate) queue: Duration,
    pub(crate) inference: Duration,
    pub(crate) generated_tokens: u32,
}

impl Timings {
    pub(crate) fn total(&self) -> Duration {
        self.validation + self.queue + self.inference
    }

    pub(crate) fn per_token(&self) -> Duration {
        self.inference / self.generated_tokens.max(1)
    }
}

impl Instruments {
    /// Uses the recorder that is installed now.
    pub(crate) fn new() -> Self {
        let labels = rows()
            .map(|row| row.label)
            .chain([DROPPED])
            .collect::<BTreeSet<_>>();
        let failure = |label| (label, counter!("tgi_request_failure", "err" => label));
        Self {
            count: counter!("tgi_request_count"),
            success: counter!("tgi_request_success"),
            failures: labels.into_iter().map(failure).collect(),
            duration: histogram!("tgi_request_duration"),
            validation: histogram!("tgi_request_validation_duration"),
            queue: histogram!("tgi_request_queue_duration"),
            inference: histogram!("tgi_request_inference_duration"),
            time_per_token: histogram!("tgi_request_mean_time_per_token_duration"),
            input_length: histogram!("tgi_request_input_length"),
            max_new_tokens: histogram!("tgi_request_max_new_tokens"),
            generated_tokens: histogram!("tgi_request_generated_tokens"),
            time_to_first_token: histogram!("ribbon_time_to_first_token_seconds"),
            inter_token: histogram!("ribbon_inter_token_seconds"),
            skipped_tokens: histogram!("tgi_request_skipped_tokens"),
        }
    }

    /// The engine took a sequence.
    pub(crate) fn admitted(&self, request: &SequenceRequest) {
        self.input_length.record(request.prompt.len() as f64);
        self.max_new_tokens.record(request.max_new_tokens);
    }

    fn failed(&self, label: &str) {
        self.failures
            .iter()
            .filter(|(known, _)| *known == label)
            .for_each(|(_, counter)| counter.increment(1));
    }

    fn finished(&self, timings: &Timings) {
        self.duration.record(timings.total());
        self.validation.record(timings.validation);
        self.queue.record(timings.queue);
        self.inference.record(timings.inference);
        self.time_per_token.record(timings.per_token());
        self.generated_tokens.record(timings.generated_tokens);
    }
}

/// One HTTP request: counted when it arrives, and settled once; dropped unsettled, its client went away.
pub(crate) struct Tally {
    instruments: Arc<Instruments>,
    pub(crate) arrived: Instant,
    is_settled: AtomicBool,
}

impl Tally {
    pub(crate) fn start(instruments: Arc<Instruments>) -> Self {
        instruments.count.increment(1);
        Self {
            instruments,
            arrived: Instant::now(),
            is_settled: AtomicBool::new(false),
        }
    }

    /// All sequences of the request are complete.
    pub(crate) fn succeed(&self, sequences: &[Timings]) {
        if self.settle() {
            self.instruments.success.increment(1);
            for timings in sequences {
                self.instruments.finished(timings);
            }
            tracing::info!(
                sequences = sequences.len(),
                seconds = self.arrived.elapsed().as_secs_f64(),
                "request done"
            );
        }
    }

    pub(crate) fn fail(&self, error: &ApiError) {
        if self.settle() {
            let row = error.cause.row();
            self.instruments.failed(row.label);
            let is_ours = row.native.is_server_error() && error.cause != Cause::Timeout;
            if is_ours || row.label == "generation" {
                tracing::warn!(err = row.label, error = error.message, "request failed");
            } else {
                tracing::info!(err = row.label, error = error.message, "request refused");
            }
        }
    }

    fn settle(&self) -> bool {
        !self.is_settled.swap(true, Ordering::Relaxed)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.settle() {
            self.instruments.failed(DROPPED);
            tracing::info!(
                err = DROPPED,
                seconds = self.arrived.elapsed().as_secs_f64(),
                "client went away"
            );
        }
    }
}

/// Label of requests whose client went away.
const DROPPED: &str = "dropped";
