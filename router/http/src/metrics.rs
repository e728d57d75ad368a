//! The metrics recorder: buckets, descriptions, upkeep. Knows the request-level names; other rooms bring their own.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// A histogram's name and its bucket edges, ascending.
pub type Buckets<'a> = (&'a str, &'a [f64]);

/// Samples wait in memory until they are folded into buckets; so often keeps a scrape cheap at 100,000 tokens a second.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(250);

const REQUEST_DURATIONS: [(&str, &str); 5] = [
    (
        "tgi_request_duration",
        "Seconds from a request's arrival to its last token.",
    ),
    (
        "tgi_request_validation_duration",
        "Seconds from a request's arrival until it is queued: parsing, template, tokenization.",
    ),
    (
        "tgi_request_queue_duration",
        "Seconds a request waited for its first step.",
    ),
    (
        "tgi_request_inference_duration",
        "Seconds from a request's first step to its last token.",
    ),
    (
        "tgi_request_mean_time_per_token_duration",
        "Inference seconds of a request divided by its generated tokens.",
    ),
];
const REQUEST_TOKENS: [(&str, &str); 4] = [
    (
        "tgi_request_skipped_tokens",
        "Tokens of a request that one step accepted beyond the first; 0 without speculation.",
    ),
    ("tgi_request_input_length", "Prompt tokens of a request."),
    (
        "tgi_request_generated_tokens",
        "Generated tokens of a finished request.",
    ),
    (
        "tgi_request_max_new_tokens",
        "Tokens that a request may generate.",
    ),
];
const STREAM_TIMES: [(&str, &str); 2] = [
    (
        "ribbon_time_to_first_token_seconds",
        "Seconds from a request's arrival to its first token.",
    ),
    (
        "ribbon_inter_token_seconds",
        "Seconds between two tokens of one sequence.",
    ),
];
const COUNTERS: [(&str, &str); 4] = [
    (
        "tgi_request_count",
        "Generation requests that arrived, each HTTP request once.",
    ),
    (
        "tgi_request_success",
        "Generation requests that got all their tokens.",
    ),
    (
        "tgi_request_failure",
        "Generation requests that failed, by cause.",
    ),
    (
        "ribbon_spent_tokens_total",
        "Tokens of requests, by kind and by how the request ended: of prompts that were read, and generated ones.",
    ),
];

/// Installs the global recorder with the buckets of this room and `others`, and describes this room's names.
/// Call it once, before [`crate::AppState::new`]; then spawn [`upkeep`].
///
/// # Errors
/// A recorder is installed already, or a bucket list is empty.
pub fn install(others: &[Buckets<'_>]) -> Result<PrometheusHandle, BuildError> {
    let handle = builder(others)?.install_recorder()?;
    describe();
    Ok(handle)
}

/// Folds samples into buckets, for ever. The owner of the server's tasks runs it.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

pub(crate) fn builder(others: &[Buckets<'_>]) -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), &duration_edges())?;
    for (name, _) in STREAM_TIMES {
        builder =
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &duration_edges())?;
    }
    for (name, _) in REQUEST_TOKENS {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &token_edges())?;
    }
    for (name, edges) in others {
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), edges)?;
    }
    Ok(builder)
}

pub(crate) fn describe() {
    for (name, text) in COUNTERS {
        describe_counter!(name, text);
    }
    for (name, text) in REQUEST_DURATIONS.into_iter().chain(STREAM_TIMES) {
        describe_histogram!(name, Unit::Seconds, text);
    }
    for (name, text) in REQUEST_TOKENS {
        describe_histogram!(name, Unit::Count, text);
    }
}

/// TGI's: 0.0001 · 1.5^k seconds, k = 1…35.
pub fn duration_edges() -> Vec<f64> {
    (1..=35).map(|k| 0.0001 * 1.5_f64.powi(k)).collect()
}

/// Four steps to the doubling, 1 … 2^20 tokens: the same on every server, so series can be added up.
pub fn token_edges() -> Vec<f64> {
    let mut edges: Vec<f64> = (0..=80)
        .map(|k| 2.0_f64.powf(f64::from(k) / 4.0).round())
        .collect();
    edges.dedup();
    edges
}
