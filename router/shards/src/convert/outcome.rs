//! An outcome, off the wire.

use std::{collections::HashMap, time::Duration};

use ribbon_core::{RowOutcome, RowResult, Slot, StepOutcome, StepTimings};

use super::column::{read_f32s, read_u8s, read_u32s};
use crate::{ShardError, wire};

/// The whole outcome.
///
/// # Errors
/// Columns whose lengths do not fit together, or a status that does not exist.
pub(crate) fn outcome(mut outcome: wire::StepOutcome) -> Result<StepOutcome, ShardError> {
    let failure = Some(std::mem::take(&mut outcome.failure)).filter(|reason| !reason.is_empty());
    // Of a failed step, only the reason counts.
    let rows = if failure.is_some() {
        Vec::new()
    } else {
        rows(&mut outcome)?
    };
    Ok(StepOutcome {
        step_id: outcome.step_id,
        rows,
        timings: timings(outcome.timings.unwrap_or_default()),
        pages_available: outcome.pages_available,
        out_of_pages: outcome.out_of_pages,
        failure,
    })
}

fn rows(outcome: &mut wire::StepOutcome) -> Result<Vec<RowOutcome>, ShardError> {
    let mut errors: HashMap<usize, String> = HashMap::new();
    for error in outcome.errors.drain(..) {
        errors.insert(error.row as usize, error.message);
    }
    let num_rows = outcome.slot.len() / 4;
    let slots = read_u32s("slot", &outcome.slot, num_rows)?;
    let statuses = read_u8s("status", &outcome.status, num_rows)?;
    let samples = samples(outcome, num_rows)?;
    let columns = slots.zip(statuses).zip(samples).enumerate();
    columns
        .map(|(row, ((slot, status), sample))| {
            let result = result(*status, sample, errors.remove(&row))?;
            Ok(RowOutcome {
                slot: Slot(slot),
                result,
            })
        })
        .collect()
}

fn result(status: u8, sample: Sample, message: Option<String>) -> Result<RowResult, ShardError> {
    use wire::RowStatus as Status;
    let sampled = |stopped| {
        let Sample {
            token_id,
            logprob,
            top,
        } = sample;
        RowResult::Sampled {
            token_id,
            logprob,
            top,
            stopped,
        }
    };
    match Status::try_from(i32::from(status)) {
        Ok(Status::Fed) => Ok(RowResult::Fed),
        Ok(Status::Sampled) => Ok(sampled(false)),
        Ok(Status::Stopped) => Ok(sampled(true)),
        Ok(Status::Ended) => Ok(RowResult::Ended),
        Ok(Status::Cancelled) => Ok(RowResult::Cancelled),
        Ok(Status::Failed) => {
            let message = message.unwrap_or_else(|| "the shard gave no reason".into());
            Ok(RowResult::Failed { message })
        }
        Ok(Status::Unspecified) | Err(_) => Err(ShardError::malformed(
            "outcome",
            format!("row status {status} does not exist"),
        )),
    }
}

struct Sample {
    token_id: u32,
    logprob: f32,
    top: Vec<(u32, f32)>,
}

/// The columns of sampled tokens, row by row. All lengths are checked before the first row.
fn samples(
    outcome: &wire::StepOutcome,
    rows: usize,
) -> Result<impl Iterator<Item = Sample>, ShardError> {
    let top_counts = read_u8s("top_count", &outcome.top_count, rows)?;
    let num_top = top_counts.iter().map(|count| usize::from(*count)).sum();
    let top_ids = read_u32s("top_token_id", &outcome.top_token_id, num_top)?;
    let top_logprobs = read_f32s("top_logprob", &outcome.top_logprob, num_top)?;
    let mut top = top_ids.zip(top_logprobs);
    let token_ids = read_u32s("token_id", &outcome.token_id, rows)?;
    let logprobs = read_f32s("logprob", &outcome.logprob, rows)?;
    let columns = token_ids.zip(logprobs).zip(top_counts);
    Ok(columns.map(move |((token_id, logprob), count)| {
        let top = top.by_ref().take(usize::from(*count)).collect();
        Sample {
            token_id,
            logprob,
            top,
        }
    }))
}

fn timings(timings: wire::Timings) -> StepTimings {
    StepTimings {
        prepare: Duration::from_nanos(timings.prepare_ns),
        forward: Duration::from_nanos(timings.forward_ns),
        sample: Duration::from_nanos(timings.sample_ns),
        total: Duration::from_nanos(timings.total_ns),
        idle: Duration::from_nanos(timings.idle_ns),
    }
}
