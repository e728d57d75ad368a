//! Handles of the request-level metrics, looked up once; and the tally of one HTTP request, which is counted exactly once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderValue;
use metrics::{Counter, Histogram, counter, histogram};
use ribbon_core::SequenceRequest;
use tokio::time::Instant;

use crate::error::{ApiError, Cause, rows};

/// Handles into the recorder.
pub(crate) struct Instruments {
    count: Counter,
    success: Counter,
    failures: Vec<(&'static str, Counter)>,
    /// Prompt and generated tokens, by outcome.
    spent: [(Counter, Counter); OUTCOMES.len()],
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

    /// `None` where nothing was generated, as of embeddings.
    pub(crate) fn per_token(&self) -> Option<Duration> {
        self.inference.checked_div(self.generated_tokens)
    }
}

impl Instruments {
    /// Uses the recorder that is installed now.
    pub(crate) fn new() -> Self {
        let labels = rows()
            .map(|row| row.label)
            .chain([DROPPED])
            .collect::<BTreeSet<_>>();
        let spent = |kind, outcome: Outcome| counter!("ribbon_spent_tokens_total", "kind" => kind, "outcome" => outcome.label());
        let failure = |label| (label, counter!("tgi_request_failure", "err" => label));
        Self {
            count: counter!("tgi_request_count"),
            success: counter!("tgi_request_success"),
            failures: labels.into_iter().map(failure).collect(),
            spent: OUTCOMES.map(|outcome| (spent("prompt", outcome), spent("generated", outcome))),
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

    fn spent(&self, outcome: Outcome, spent: &Spent) {
        if let Some((prompt, generated)) = self.spent.get(outcome as usize) {
            prompt.increment(spent.prompt());
            generated.increment(spent.generated());
        }
    }

    fn finished(&self, timings: &Timings) {
        self.duration.record(timings.total());
        self.validation.record(timings.validation);
        self.queue.record(timings.queue);
        self.inference.record(timings.inference);
        if let Some(per_token) = timings.per_token() {
            self.time_per_token.record(per_token);
        }
        self.generated_tokens.record(timings.generated_tokens);
    }
}

/// How a request ended.
#[derive(Clone, Copy)]
enum Outcome {
    Done,
    Failed,
    Dropped,
}

const OUTCOMES: [Outcome; 3] = [Outcome::Done, Outcome::Failed, Outcome::Dropped];

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dropped => DROPPED,
        }
    }
}

/// What a request cost so far, whatever becomes of it.
#[derive(Default)]
struct Spent {
    prompt: AtomicU64,
    generated: AtomicU64,
}

impl Spent {
    fn prompt(&self) -> u64 {
        self.prompt.load(Ordering::Relaxed)
    }

    fn generated(&self) -> u64 {
        self.generated.load(Ordering::Relaxed)
    }
}

/// One HTTP request: counted when it arrives, and settled once; dropped unsettled, its client went away.
pub(crate) struct Tally {
    instruments: Arc<Instruments>,
    pub(crate) arrived: Instant,
    /// What the request is called in logs.
    name: Option<HeaderValue>,
    spent: Spent,
    is_settled: AtomicBool,
}

impl Tally {
    pub(crate) fn start(instruments: Arc<Instruments>, name: Option<HeaderValue>) -> Self {
        instruments.count.increment(1);
        Self {
            instruments,
            arrived: Instant::now(),
            name,
            spent: Spent::default(),
            is_settled: AtomicBool::new(false),
        }
    }

    /// A prompt of so many tokens was read.
    pub(crate) fn prompt_read(&self, tokens: u32) {
        self.spent
            .prompt
            .fetch_add(u64::from(tokens), Ordering::Relaxed);
    }

    /// A token was generated.
    pub(crate) fn token_generated(&self) {
        self.spent.generated.fetch_add(1, Ordering::Relaxed);
    }

    /// All sequences of the request are complete.
    pub(crate) fn succeed(&self, sequences: &[Timings]) {
        if self.settle(Outcome::Done) {
            self.instruments.success.increment(1);
            for timings in sequences {
                self.instruments.finished(timings);
            }
            tracing::info!(
                request_id = self.name(),
                sequences = sequences.len(),
                prompt_tokens = self.spent.prompt(),
                generated_tokens = self.spent.generated(),
                seconds = self.arrived.elapsed().as_secs_f64(),
                "request done"
            );
        }
    }

    pub(crate) fn fail(&self, error: &ApiError) {
        if self.settle(Outcome::Failed) {
            let row = error.cause.row();
            self.instruments.failed(row.label);
            let is_ours = row.native.is_server_error() && error.cause != Cause::Timeout;
            if is_ours || row.label == "generation" {
                tracing::warn!(
                    request_id = self.name(),
                    err = row.label,
                    error = error.message,
                    prompt_tokens = self.spent.prompt(),
                    generated_tokens = self.spent.generated(),
                    "request failed"
                );
            } else {
                tracing::info!(
                    request_id = self.name(),
                    err = row.label,
                    error = error.message,
                    "request refused"
                );
            }
        }
    }

    fn name(&self) -> Option<&str> {
        self.name.as_ref()?.to_str().ok()
    }

    /// True for the first who says how it ended.
    fn settle(&self, outcome: Outcome) -> bool {
        let is_first = !self.is_settled.swap(true, Ordering::Relaxed);
        if is_first {
            self.instruments.spent(outcome, &self.spent);
        }
        is_first
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.settle(Outcome::Dropped) {
            self.instruments.failed(DROPPED);
            tracing::info!(
                request_id = self.name(),
                err = DROPPED,
                seconds = self.arrived.elapsed().as_secs_f64(),
                prompt_tokens = self.spent.prompt(),
                generated_tokens = self.spent.generated(),
                "client went away"
            );
        }
    }
}

/// Label of requests whose client went away.
const DROPPED: &str = "dropped";
