//! Names, meanings and buckets of the scheduler's metrics, and how a turn's figures are recorded. Used by the actor only.

use std::time::{Duration, Instant};

use metrics::{Unit, counter, gauge, histogram};
use ribbon_core::Refusal;

use crate::{
    event::{CancelStage, Event, StepKind, StepReport},
    usage::Usage,
};

/// What a metric is, with its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Seconds in [`duration_buckets`].
    Durations,
    /// Whole numbers in [`size_buckets`].
    Sizes,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Exposed name.
    pub name: &'static str,
    /// Kind and buckets.
    pub kind: Kind,
    /// Unit, where there is one.
    pub unit: Option<Unit>,
    /// Meaning.
    pub help: &'static str,
}

const fn row(name: &'static str, kind: Kind, unit: Option<Unit>, help: &'static str) -> Metric {
    Metric {
        name,
        kind,
        unit,
        help,
    }
}

const SECONDS: Option<Unit> = Some(Unit::Seconds);
const BYTES: Option<Unit> = Some(Unit::Bytes);
const COUNT: Option<Unit> = Some(Unit::Count);

/// Every metric the scheduler records. `method` is `prefill` for a step that admits sequences, else `decode`.
pub const METRICS: &[Metric] = &[
    row(
        "tgi_queue_size",
        Kind::Gauge,
        COUNT,
        "Sequences that wait for a slot",
    ),
    row(
        "tgi_batch_next_size",
        Kind::Sizes,
        COUNT,
        "Sequences admitted by one step",
    ),
    row(
        "tgi_batch_current_size",
        Kind::Gauge,
        COUNT,
        "Sequences that hold a slot",
    ),
    row(
        "tgi_batch_current_max_tokens",
        Kind::Gauge,
        COUNT,
        "Tokens the running sequences may grow to",
    ),
    row(
        "tgi_batch_max_total_tokens",
        Kind::Gauge,
        COUNT,
        "Tokens the KV memory holds",
    ),
    row(
        "tgi_batch_inference_count",
        Kind::Counter,
        COUNT,
        "Steps, by method",
    ),
    row(
        "tgi_batch_inference_success",
        Kind::Counter,
        COUNT,
        "Steps that worked, by method",
    ),
    row(
        "tgi_batch_inference_failure",
        Kind::Counter,
        COUNT,
        "Steps that failed, by method",
    ),
    row(
        "tgi_batch_inference_duration",
        Kind::Durations,
        SECONDS,
        "A step as the router sees it, by method",
    ),
    row(
        "tgi_batch_forward_duration",
        Kind::Durations,
        SECONDS,
        "Preparation, forward pass and sampling in the shard, by method",
    ),
    row(
        "tgi_batch_decode_duration",
        Kind::Durations,
        SECONDS,
        "The rest of the step in the shard, by method",
    ),
    row(
        "tgi_batch_filter_duration",
        Kind::Durations,
        SECONDS,
        "Handing the step's tokens to their streams, by method",
    ),
    row(
        "tgi_batch_concat",
        Kind::Counter,
        COUNT,
        "Steps whose admitted sequences joined running ones, by reason",
    ),
    row(
        "tgi_batch_concat_duration",
        Kind::Durations,
        SECONDS,
        "Preparation of steps in which sequences joined running ones, by method",
    ),
    row(
        "ribbon_kv_pages",
        Kind::Gauge,
        COUNT,
        "Physical KV pages, by state",
    ),
    row(
        "ribbon_kv_page_bytes",
        Kind::Gauge,
        BYTES,
        "Bytes of a physical KV page",
    ),
    row(
        "ribbon_kv_waste_ratio",
        Kind::Gauge,
        None,
        "Share of the live sequences' page bytes that hold no token",
    ),
    row("ribbon_slots", Kind::Gauge, COUNT, "Slots, by state"),
    row(
        "ribbon_prefix_lookup_tokens_total",
        Kind::Counter,
        COUNT,
        "Known tokens of sequences when they first got a slot",
    ),
    row(
        "ribbon_prefix_hit_tokens_total",
        Kind::Counter,
        COUNT,
        "Those of them that had not to be computed",
    ),
    row(
        "ribbon_preemptions_total",
        Kind::Counter,
        COUNT,
        "Sequences that lost their slot for lack of pages, to come back later",
    ),
    row(
        "ribbon_evictions_total",
        Kind::Counter,
        COUNT,
        "Cached prefixes that were given up or cut for their pages",
    ),
    row(
        "ribbon_requests_cancelled_total",
        Kind::Counter,
        COUNT,
        "Sequences whose client went away, by stage",
    ),
    row(
        "ribbon_requests_shed_total",
        Kind::Counter,
        COUNT,
        "Requests refused at the gate, and sequences whose time was over before their first step, by reason",
    ),
    row(
        "ribbon_requests_expired_total",
        Kind::Counter,
        COUNT,
        "Sequences ended by their deadline, by stage",
    ),
    row(
        "ribbon_queue_age_seconds",
        Kind::Gauge,
        SECONDS,
        "How long the oldest sequence without a slot has waited",
    ),
    row(
        "ribbon_queue_tokens",
        Kind::Gauge,
        COUNT,
        "Known tokens of the sequences that wait",
    ),
    row(
        "ribbon_step_seconds",
        Kind::Durations,
        SECONDS,
        "A step in the shard, by kind of work",
    ),
    row(
        "ribbon_step_idle_seconds_total",
        Kind::Gauge,
        SECONDS,
        "Time the shard waited for plans",
    ),
    row(
        "ribbon_shard_restarts_total",
        Kind::Counter,
        COUNT,
        "Generations of shards that replaced another one",
    ),
];

/// 35 geometric steps from 0.15 ms to 146 s, for every metric in seconds.
pub fn duration_buckets() -> Vec<f64> {
    (1..=35).map(|power| 0.0001 * 1.5f64.powi(power)).collect()
}

/// 1 to 1024 in half doublings, for numbers of sequences.
pub fn size_buckets() -> Vec<f64> {
    let half_doublings = (0..=20).map(|half| 2.0_f64.powf(f64::from(half) / 2.0).round());
    let mut edges: Vec<f64> = half_doublings.collect();
    edges.dedup();
    edges
}

/// Describes every metric to the installed recorder.
pub fn describe() {
    for Metric {
        name,
        kind,
        unit,
        help,
    } in METRICS
    {
        let unit = unit.unwrap_or(Unit::Count);
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, unit, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, unit, *help),
            Kind::Durations | Kind::Sizes => metrics::describe_histogram!(*name, unit, *help),
        }
    }
    begin_at_zero();
}

/// Counters of things that seldom happen are there from the start: a rate over them needs a first value.
fn begin_at_zero() {
    for method in ["prefill", "decode"] {
        counter!("tgi_batch_inference_count", "method" => method).increment(0);
        counter!("tgi_batch_inference_success", "method" => method).increment(0);
        counter!("tgi_batch_inference_failure", "method" => method).increment(0);
    }
    for stage in CancelStage::ALL.map(CancelStage::label) {
        counter!("ribbon_requests_cancelled_total", "stage" => stage).increment(0);
        counter!("ribbon_requests_expired_total", "stage" => stage).increment(0);
    }
    for reason in SHED {
        counter!("ribbon_requests_shed_total", "reason" => reason).increment(0);
    }
    counter!("tgi_batch_concat", "reason" => "chunking").increment(0);
    counter!("ribbon_shard_restarts_total").increment(0);
}

/// Values of the label `reason` of `ribbon_requests_shed_total`.
const SHED: [&str; 7] = [
    "overloaded",
    "queue_tokens",
    "not_ready",
    "never_fits",
    "shutting_down",
    "expired",
    VALIDATION,
];
/// No validation worker has room.
const VALIDATION: &str = "validation";

/// A request was refused before it came to the door.
pub(crate) fn turned_away() {
    counter!("ribbon_requests_shed_total", "reason" => VALIDATION).increment(1);
}

/// Metric label of a refusal.
pub(crate) fn refused(refusal: &Refusal) {
    let reason = match refusal {
        Refusal::Overloaded { .. } => "overloaded",
        Refusal::QueueFull { .. } => "queue_tokens",
        Refusal::NotReady { .. } => "not_ready",
        Refusal::NeverFits { .. } => "never_fits",
        Refusal::ShuttingDown => "shutting_down",
    };
    counter!("ribbon_requests_shed_total", "reason" => reason).increment(1);
}

/// A generation of shards replaced another one.
pub(crate) fn restarted() {
    counter!("ribbon_shard_restarts_total").increment(1);
}

/// Shows the current load and memory.
pub(crate) fn show(usage: &Usage, now: Instant) {
    let age = |since| now.saturating_duration_since(since).as_secs_f64();
    gauge!("ribbon_queue_age_seconds").set(usage.waiting_since.map_or(0.0, age));
    let pages = &usage.pages;
    let tokens_of = |count: u64| (count * pages.page_bytes / pages.stride_bytes.max(1)) as f64;
    gauge!("tgi_queue_size").set(usage.queued as f64);
    gauge!("tgi_batch_current_size").set(usage.running as f64);
    gauge!("tgi_batch_current_max_tokens").set(usage.max_tokens as f64);
    gauge!("tgi_batch_max_total_tokens").set(tokens_of(pages.pool));
    gauge!("ribbon_queue_tokens").set(usage.queue_tokens as f64);
    gauge!("ribbon_kv_pages", "state" => "live").set(pages.live as f64);
    gauge!("ribbon_kv_pages", "state" => "free").set(pages.free() as f64);
    gauge!("ribbon_kv_pages", "state" => "shared").set(pages.shared as f64);
    gauge!("ribbon_kv_pages", "state" => "cached").set(pages.cached as f64);
    gauge!("ribbon_kv_page_bytes").set(pages.page_bytes as f64);
    gauge!("ribbon_kv_waste_ratio").set(pages.waste_ratio());
    counter!("ribbon_prefix_lookup_tokens_total").absolute(usage.totals.lookup_tokens);
    counter!("ribbon_prefix_hit_tokens_total").absolute(usage.totals.hit_tokens);
    counter!("ribbon_preemptions_total").absolute(usage.totals.preemptions);
    counter!("ribbon_evictions_total").absolute(usage.totals.evictions);
    gauge!("ribbon_slots", "state" => "used").set(f64::from(pages.slots_used));
    gauge!("ribbon_slots", "state" => "free").set(f64::from(pages.slots - pages.slots_used));
}

/// Records what one event says; tokens and ends are counted where they leave the router.
pub(crate) fn record(event: &Event) {
    match event {
        Event::Step(report) => step(report),
        Event::Cancelled { stage } => {
            counter!("ribbon_requests_cancelled_total", "stage" => stage.label()).increment(1);
        }
        Event::Expired { stage } => {
            counter!("ribbon_requests_expired_total", "stage" => stage.label()).increment(1);
            if *stage == CancelStage::Queued {
                counter!("ribbon_requests_shed_total", "reason" => "expired").increment(1);
            }
        }
        _ => {}
    }
}

/// Time spent handing the tokens of a step to their streams.
pub(crate) fn delivered(report: &StepReport, took: Duration) {
    histogram!("tgi_batch_filter_duration", "method" => method(report)).record(took);
}

fn method(report: &StepReport) -> &'static str {
    if report.admitted > 0 {
        "prefill"
    } else {
        "decode"
    }
}

fn step(report: &StepReport) {
    if report.kind == StepKind::Operations {
        return;
    }
    let method = method(report);
    counter!("tgi_batch_inference_count", "method" => method).increment(1);
    histogram!("tgi_batch_inference_duration", "method" => method).record(report.round_trip);
    if report.admitted > 0 {
        histogram!("tgi_batch_next_size").record(f64::from(report.admitted));
    }
    if report.failed {
        counter!("tgi_batch_inference_failure", "method" => method).increment(1);
        return;
    }
    counter!("tgi_batch_inference_success", "method" => method).increment(1);
    timings(report, method);
}

fn timings(report: &StepReport, method: &'static str) {
    let timings = &report.timings;
    let forward = timings.prepare + timings.forward + timings.sample;
    histogram!("tgi_batch_forward_duration", "method" => method).record(forward);
    let rest = timings.total.saturating_sub(forward);
    histogram!("tgi_batch_decode_duration", "method" => method).record(rest);
    histogram!("ribbon_step_seconds", "kind" => report.kind.label()).record(timings.total);
    // A float counter is not in the facade: whole microseconds would change the unit, so a gauge only ever raised.
    gauge!("ribbon_step_idle_seconds_total").increment(timings.idle.as_secs_f64());
    if report.joined {
        counter!("tgi_batch_concat", "reason" => "chunking").increment(1);
        histogram!("tgi_batch_concat_duration", "method" => "decode").record(timings.prepare);
    }
}
