//! An outcome, off the wire.

use std::{collections::HashMap, time::Duration};

use ribbon_core::{RowOutcome, RowResult, Slot, StepOutcome, StepTimings, Token, TokenScore};

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
    let states = prompts(outcome, num_rows)?.zip(pooled(outcome, num_rows)?);
    let columns = slots.zip(statuses).zip(samples.zip(states)).enumerate();
    columns
        .map(|(row, ((slot, status), (sample, (prompt, pooled))))| {
            let result = result(*status, sample, errors.remove(&row))?;
            Ok(RowOutcome {
                slot: Slot(slot),
                result,
                prompt,
                pooled,
            })
        })
        .collect()
}

/// How many values of a flattened column are each row's, and how many there are. Without any row that wanted some, the column
/// of counts is empty.
fn counts(name: &str, column: &[u8], rows: usize) -> Result<(Vec<usize>, usize), ShardError> {
    let counts: Vec<usize> = if column.is_empty() {
        vec![0; rows]
    } else {
        let counts = read_u32s(name, column, rows)?;
        counts.map(|count| count as usize).collect()
    };
    let total = counts
        .iter()
        .fold(0, |sum: usize, count| sum.saturating_add(*count));
    Ok((counts, total))
}

/// The pooled states, row by row.
fn pooled(
    outcome: &wire::StepOutcome,
    rows: usize,
) -> Result<impl Iterator<Item = Vec<f32>>, ShardError> {
    let (counts, total) = counts("pooled_count", &outcome.pooled_count, rows)?;
    let mut values = read_f32s("pooled", &outcome.pooled, total)?;
    Ok(counts
        .into_iter()
        .map(move |count| values.by_ref().take(count).collect()))
}

/// The scores of prompt tokens, row by row.
fn prompts(
    outcome: &wire::StepOutcome,
    rows: usize,
) -> Result<impl Iterator<Item = Vec<TokenScore>>, ShardError> {
    let (counts, num_tokens) = counts("prompt_count", &outcome.prompt_count, rows)?;
    let logprobs = read_f32s("prompt_logprob", &outcome.prompt_logprob, num_tokens)?;
    let tops = tops(
        ("prompt_top_count", &outcome.prompt_top_count, num_tokens),
        ("prompt_top_token_id", &outcome.prompt_top_token_id),
        ("prompt_top_logprob", &outcome.prompt_top_logprob),
    )?;
    let mut scores = logprobs
        .zip(tops)
        .map(|(logprob, top)| TokenScore { logprob, top });
    Ok(counts
        .into_iter()
        .map(move |count| scores.by_ref().take(count).collect()))
}

/// Lists of top tokens, one an entry of `count`, from columns given by name.
fn tops<'a>(
    (count_name, counts, rows): (&str, &'a [u8], usize),
    (id_name, ids): (&str, &'a [u8]),
    (logprob_name, logprobs): (&str, &'a [u8]),
) -> Result<impl Iterator<Item = Vec<(u32, f32)>> + use<'a>, ShardError> {
    let counts = read_u8s(count_name, counts, rows)?;
    let num_top = counts.iter().map(|count| usize::from(*count)).sum();
    let ids = read_u32s(id_name, ids, num_top)?;
    let mut pairs = ids.zip(read_f32s(logprob_name, logprobs, num_top)?);
    Ok(counts
        .iter()
        .map(move |count| pairs.by_ref().take(usize::from(*count)).collect()))
}

fn result(status: u8, token: Token, message: Option<String>) -> Result<RowResult, ShardError> {
    use wire::RowStatus as Status;
    let sampled = |stopped| RowResult::Sampled { token, stopped };
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

/// The columns of sampled tokens, row by row. All lengths are checked before the first row.
fn samples(
    outcome: &wire::StepOutcome,
    rows: usize,
) -> Result<impl Iterator<Item = Token>, ShardError> {
    let tops = tops(
        ("top_count", &outcome.top_count, rows),
        ("top_token_id", &outcome.top_token_id),
        ("top_logprob", &outcome.top_logprob),
    )?;
    let token_ids = read_u32s("token_id", &outcome.token_id, rows)?;
    let logprobs = read_f32s("logprob", &outcome.logprob, rows)?;
    let columns = token_ids.zip(logprobs).zip(tops);
    Ok(columns.map(|((id, logprob), top)| Token { id, logprob, top }))
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
