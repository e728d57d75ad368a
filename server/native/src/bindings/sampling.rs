//! `sample`, `gumbel_noise` and `mark_green` as Python sees them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bindings::arguments::{Column, keyword_record};
use crate::sampling::{Choice, RowFault, Stream, watermark};
use crate::tensor::Pieces;
use crate::threads;

keyword_record!("sample", SampleArguments {
    logits: Column<f32>,
    greedy: Column<u8>,
    temperature: Column<f32>,
    top_k: Column<u32>,
    top_p: Column<f32>,
    min_p: Column<f32>,
    typical_p: Column<f32>,
    seed: Column<u64>,
    position: Column<u32>,
    choice: Column<u32>,
    num_top: Column<u32>,
    token_id: Column<u32>,
    logprob: Column<f32>,
    top_token_id: Column<u32>,
    top_logprob: Column<f32>,
    top_count: Column<u32>,
});

/// Where the rows' results go.
struct Outputs {
    token_id: Pieces<u32>,
    logprob: Pieces<f32>,
    top_token_id: Pieces<u32>,
    top_logprob: Pieces<f32>,
    top_count: Pieces<u32>,
    status: Pieces<u8>,
    max_top: usize,
}

impl SampleArguments {
    fn choices(&self, rows: usize) -> PyResult<Vec<Choice>> {
        let greedy = self.greedy.input("greedy", &[rows])?;
        let temperature = self.temperature.input("temperature", &[rows])?;
        let top_k = self.top_k.input("top_k", &[rows])?;
        let top_p = self.top_p.input("top_p", &[rows])?;
        let min_p = self.min_p.input("min_p", &[rows])?;
        let typical_p = self.typical_p.input("typical_p", &[rows])?;
        let seed = self.seed.input("seed", &[rows])?;
        let position = self.position.input("position", &[rows])?;
        let choice = self.choice.input("choice", &[rows])?;
        let num_top = self.num_top.input("num_top", &[rows])?;
        let of_row = |row: usize| Choice {
            greedy: greedy[row] != 0,
            temperature: temperature[row],
            top_k: top_k[row],
            top_p: top_p[row],
            min_p: min_p[row],
            typical_p: typical_p[row],
            stream: Stream {
                seed: seed[row],
                position: position[row],
                choice: choice[row],
            },
            num_top: num_top[row] as usize,
        };
        Ok((0..rows).map(of_row).collect())
    }

    fn outputs(&mut self, rows: usize, status: &mut [u8]) -> PyResult<Outputs> {
        let max_top = *self.top_token_id.shape().get(1).unwrap_or(&0);
        Ok(Outputs {
            token_id: Pieces::new(self.token_id.output("token_id", &[rows])?),
            logprob: Pieces::new(self.logprob.output("logprob", &[rows])?),
            top_token_id: Pieces::new(self.top_token_id.output("top_token_id", &[rows, max_top])?),
            top_logprob: Pieces::new(self.top_logprob.output("top_logprob", &[rows, max_top])?),
            top_count: Pieces::new(self.top_count.output("top_count", &[rows])?),
            status: Pieces::new(status),
            max_top,
        })
    }
}

impl Outputs {
    fn sample_row(&self, row: usize, choice: &Choice, logits: &mut [f32]) {
        // SAFETY: each row is written by one call only.
        let (token_id, logprob, top_count, status) = unsafe {
            (
                self.token_id.piece(row, 1),
                self.logprob.piece(row, 1),
                self.top_count.piece(row, 1),
                self.status.piece(row, 1),
            )
        };
        // SAFETY: as above.
        let top = unsafe {
            let begin = row * self.max_top;
            (
                self.top_token_id.piece(begin, self.max_top),
                self.top_logprob.piece(begin, self.max_top),
            )
        };
        match choice.pick(logits, self.max_top) {
            Ok(picked) => {
                (token_id[0], logprob[0], top_count[0], status[0]) =
                    (picked.token, picked.logprob, picked.top.len() as u32, 0);
                for (place, (id, value)) in picked.top.into_iter().enumerate() {
                    (top.0[place], top.1[place]) = (id, value);
                }
            }
            Err(fault) => {
                (token_id[0], logprob[0], top_count[0], status[0]) =
                    (0, f32::NEG_INFINITY, 0, fault as u8);
            }
        }
    }
}

fn describe(status: u8) -> String {
    let faults = [
        RowFault::Nan,
        RowFault::Infinite,
        RowFault::Empty,
        RowFault::Parameter,
    ];
    faults
        .into_iter()
        .find(|fault| *fault as u8 == status)
        .map_or_else(String::new, |fault| fault.to_string())
}

/// Without a `status` array a faulty row raises after the others are done.
#[pyfunction]
#[pyo3(signature = (*, status=None, **arguments))]
pub fn sample(
    py: Python<'_>,
    status: Option<Column<u8>>,
    arguments: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let mut given = SampleArguments::read(arguments)?;
    let &[rows, vocab] = given.logits.shape() else {
        return Err(PyValueError::new_err(
            "logits must have shape [rows, vocab]",
        ));
    };
    let mut faults = vec![0; rows];
    let choices = given.choices(rows)?;
    let outputs = given.outputs(rows, &mut faults)?;
    // Logits are changed in place: each row becomes its scores.
    let logits = Pieces::new(given.logits.output("logits", &[rows, vocab])?);
    py.detach(|| {
        threads::for_each(rows, |row| {
            // SAFETY: each row is changed by one call only.
            outputs.sample_row(row, &choices[row], unsafe {
                logits.piece(row * vocab, vocab)
            });
        });
    });
    if let Some(mut status) = status {
        status.output("status", &[rows])?.copy_from_slice(&faults);
        return Ok(());
    }
    match faults.iter().position(|fault| *fault != 0) {
        Some(row) => Err(PyValueError::new_err(format!(
            "row {row}: {}",
            describe(faults[row])
        ))),
        None => Ok(()),
    }
}

#[pyfunction]
pub fn gumbel_noise(
    seed: u64,
    position: u32,
    choice: u32,
    token_ids: Column<u32>,
    mut output: Column<f32>,
) -> PyResult<()> {
    let tokens = token_ids.slice();
    let stream = Stream {
        seed,
        position,
        choice,
    };
    let output = output.output("output", &[tokens.len()])?;
    output
        .iter_mut()
        .zip(tokens)
        .for_each(|(out, token)| *out = stream.noise(*token));
    Ok(())
}

#[pyfunction]
pub fn mark_green(
    py: Python<'_>,
    last_token: Column<u32>,
    size: Column<u32>,
    mut green: Column<u8>,
) -> PyResult<()> {
    let &[rows, vocab] = green.shape() else {
        return Err(PyValueError::new_err("green must have shape [rows, vocab]"));
    };
    let last_token = last_token.input("last_token", &[rows])?;
    let size = size.input("size", &[rows])?;
    let green = Pieces::new(green.output("green", &[rows, vocab])?);
    py.detach(|| {
        threads::for_each(rows, |row| {
            // SAFETY: each row is written by one call only.
            let green = unsafe { green.piece(row * vocab, vocab) };
            watermark::mark_green(last_token[row], size[row] as usize, green);
        });
    });
    Ok(())
}
