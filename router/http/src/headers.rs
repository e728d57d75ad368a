//! The `x-…` headers of answers, and the trace context of requests.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::{instruments::Timings, running::Running, settings::HttpSettings};

/// Headers of a stream.
pub(crate) fn stream_headers(headers: &mut HeaderMap, settings: &HttpSettings, characters: usize) {
    compute_type(headers, settings);
    number(headers, "x-compute-characters", characters as u64);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

/// Headers of a complete answer; numbers are sums over its prompts, generated tokens over its sequences.
pub(crate) fn answer_headers(
    headers: &mut HeaderMap,
    settings: &HttpSettings,
    characters: usize,
    sequences: &[Running],
) {
    let timed = sequences.iter().filter(|sequence| sequence.reports_time());
    let timings: Vec<Timings> = timed.map(Running::timings).collect();
    let milliseconds = |part: fn(&Timings) -> Duration| {
        timings.iter().map(part).sum::<Duration>().as_millis() as u64
    };
    compute_type(headers, settings);
    number(headers, "x-compute-characters", characters as u64);
    number(headers, "x-total-time", milliseconds(Timings::total));
    number(headers, "x-validation-time", milliseconds(|t| t.validation));
    number(headers, "x-queue-time", milliseconds(|t| t.queue));
    number(headers, "x-inference-time", milliseconds(|t| t.inference));
    number(
        headers,
        "x-time-per-token",
        milliseconds(|t| t.per_token().unwrap_or_default()),
    );
    number(
        headers,
        "x-prompt-tokens",
        sequences
            .iter()
            .map(|sequence| u64::from(sequence.reported_prompt().0))
            .sum(),
    );
    number(
        headers,
        "x-generated-tokens",
        sequences
            .iter()
            .map(|s| u64::from(s.generated_tokens))
            .sum(),
    );
}

/// `x-compute-time`, in seconds; every complete answer but completions has it.
pub(crate) fn compute_time(headers: &mut HeaderMap, sequence: &Running) {
    let seconds = sequence.timings().total().as_secs_f64().to_string();
    if let Ok(value) = HeaderValue::try_from(seconds) {
        headers.insert("x-compute-time", value);
    }
}

fn compute_type(headers: &mut HeaderMap, settings: &HttpSettings) {
    if let Ok(value) = HeaderValue::try_from(settings.compute_type.as_str()) {
        headers.insert("x-compute-type", value);
    }
}

fn number(headers: &mut HeaderMap, name: &'static str, value: u64) {
    headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
}

/// The request's `traceparent`, if it is one: version, trace id, parent id and flags in hex.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = value.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    let is_hex = parts
        .iter()
        .all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
    let is_valid = is_hex && lengths.eq([2, 32, 16, 2]) && !value.starts_with("ff");
    is_valid.then(|| value.into())
}
