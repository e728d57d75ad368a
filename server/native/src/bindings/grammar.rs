//! `Grammars` as Python sees it.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use ribbon_grammar::{Grammar, GrammarKind};

use crate::bindings::arguments::{Column, keyword_record};
use crate::grammar::{self, Histories, Settings};

keyword_record!("Grammars", GrammarsArguments {
    tokenizer_json: PathBuf,
    vocab_size: usize,
    end_tokens: Vec<u32>,
    num_slots: usize,
});

keyword_record!("expect", GrammarArguments {
    kind: GrammarKindArgument,
    source: String,
    digest: [u8; 32],
    start_after: Option<u32>,
    opened_by: Option<u32>,
});

/// A kind by its name.
pub struct GrammarKindArgument(GrammarKind);

impl FromPyObject<'_, '_> for GrammarKindArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match object.extract::<String>()?.as_str() {
            "json_schema" => Ok(Self(GrammarKind::JsonSchema)),
            "regex" => Ok(Self(GrammarKind::Regex)),
            "lark" => Ok(Self(GrammarKind::Lark)),
            other => Err(PyValueError::new_err(format!(
                "kind is {other:?}; json_schema, regex and lark exist"
            ))),
        }
    }
}

impl From<GrammarArguments> for Grammar {
    fn from(given: GrammarArguments) -> Self {
        Self {
            kind: given.kind.0,
            source: Arc::from(given.source),
            digest: given.digest,
            start_after: given.start_after,
            opened_by: given.opened_by,
        }
    }
}

#[pyclass(module = "ribbon_server._native", frozen)]
pub struct Grammars {
    grammars: grammar::Grammars,
}

#[pymethods]
impl Grammars {
    #[new]
    #[pyo3(signature = (**arguments))]
    fn new(arguments: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let given = GrammarsArguments::read(arguments)?;
        let settings = Settings {
            tokenizer_json: given.tokenizer_json,
            vocab_size: given.vocab_size,
            end_tokens: given.end_tokens,
            num_slots: given.num_slots,
        };
        Ok(Self {
            grammars: grammar::Grammars::new(settings)?,
        })
    }

    #[pyo3(signature = (**arguments))]
    fn expect(&self, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        self.grammars
            .expect(GrammarArguments::read(arguments)?.into());
        Ok(())
    }

    #[pyo3(signature = (slot, stops, **arguments))]
    fn open(
        &self,
        slot: usize,
        stops: Column<u32>,
        arguments: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let grammar = GrammarArguments::read(arguments)?.into();
        Ok(self.grammars.open(slot, grammar, stops.slice().to_vec())?)
    }

    fn close(&self, slots: Column<u32>) -> PyResult<()> {
        Ok(self.grammars.close(slots.slice())?)
    }

    fn begin(
        &self,
        py: Python<'_>,
        slots: Column<u32>,
        prompt: Column<i64>,
        known: Column<i64>,
        history: Column<i32>,
    ) -> PyResult<()> {
        let rows = slots.slice().len();
        let (slots, prompt) = (slots.slice(), prompt.input("prompt", &[rows])?);
        let known = known.input("known", &[rows])?;
        let histories = Histories {
            tokens: history.slice(),
            width: history.shape().last().copied().unwrap_or(0).max(1),
        };
        Ok(py.detach(|| self.grammars.begin(slots, prompt, known, histories))?)
    }

    fn finish(&self, py: Python<'_>) {
        py.detach(|| self.grammars.finish());
    }

    fn apply(&self, py: Python<'_>, slots: Column<u32>, mut logits: Column<f32>) -> PyResult<()> {
        let shape = logits.shape().to_vec();
        let (slots, logits) = (slots.slice(), logits.output("logits", &shape)?);
        Ok(py.detach(|| self.grammars.apply(slots, logits))?)
    }

    fn masks(&self, slots: Column<u32>, mut output: Column<u32>) -> PyResult<()> {
        let shape = output.shape().to_vec();
        let output = output.output("output", &shape)?;
        Ok(self.grammars.masks(slots.slice(), output)?)
    }

    fn only_stops(&self, slots: Column<u32>, mut output: Column<u8>) -> PyResult<()> {
        let slots = slots.slice();
        let output = output.output("output", &[slots.len()])?;
        for (slot, output) in slots.iter().zip(output) {
            *output = u8::from(self.grammars.only_stops(*slot as usize)?);
        }
        Ok(())
    }

    fn fault(&self, slot: usize) -> PyResult<Option<String>> {
        Ok(self.grammars.fault(slot)?)
    }

    fn fill_ns(&self, slot: usize) -> PyResult<u64> {
        Ok(self.grammars.fill_time(slot)?.as_nanos() as u64)
    }

    #[getter]
    fn mask_words(&self) -> usize {
        self.grammars.mask_words()
    }
}
