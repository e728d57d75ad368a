//! The fields of beam search on the OpenAI routes, and the sampling they go with. Knows no engine.

use ribbon_core::Sampling;
use serde_json::Value;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::{
    beams::{Beams, EarlyStopping},
    checks,
    error::ApiError,
};

/// `use_beam_search` and what belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BeamFields<'a> {
    pub(super) use_beam_search: Option<bool>,
    pub(super) length_penalty: Option<f64>,
    pub(super) early_stopping: Option<&'a Value>,
}

impl BeamFields<'_> {
    pub(super) fn searches(&self) -> bool {
        self.use_beam_search == Some(true)
    }

    /// The search over so many beams that `sampling` goes with, which then takes no chances; `None` for one beam, which is the
    /// likeliest token each time, and where no search is wanted.
    ///
    /// # Errors
    /// Names a field that is out of range, needs beam search, or has nothing to say beside it.
    pub(super) fn checked(
        &self,
        width: u32,
        sampling: &mut Sampling,
    ) -> Result<Option<Beams>, ApiError> {
        let length_penalty =
            checks::LENGTH_PENALTY.check("length_penalty", self.length_penalty, 1.0)?;
        let early_stopping = early_stopping(self.early_stopping)?;
        if !self.searches() {
            self.check_absent(early_stopping)?;
            return Ok(None);
        }
        check_sampling(sampling)?;
        sampling.greedy = true;
        Ok((width > 1).then_some(Beams {
            width,
            length_penalty: f64::from(length_penalty),
            early_stopping,
        }))
    }

    fn check_absent(&self, early_stopping: EarlyStopping) -> Result<(), ApiError> {
        let penalty = self.length_penalty.filter(|penalty| !is_one(*penalty));
        let asking = [
            ("length_penalty", penalty.is_some()),
            ("early_stopping", early_stopping != EarlyStopping::Estimate),
        ];
        match asking.into_iter().find(|(_, asks)| *asks) {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(
                name,
                format!("`{name}` needs `use_beam_search: true`"),
            )),
        }
    }
}

fn is_one(value: f64) -> bool {
    (value - 1.0).abs() < f64::EPSILON
}

/// As the document of the routes shows the field.
pub(super) fn early_stopping_schema() -> Schema {
    let word = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["never"]));
    let either = OneOfBuilder::new()
        .item(Object::with_type(Type::Boolean))
        .item(word)
        .item(Object::with_type(Type::Null))
        .description(Some(
            "`false`, `true` or `\"never\"`, as transformers' `generate` has it.",
        ))
        .build();
    Schema::OneOf(either)
}

fn early_stopping(value: Option<&Value>) -> Result<EarlyStopping, ApiError> {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(EarlyStopping::Estimate),
        Some(Value::Bool(true)) => Ok(EarlyStopping::Full),
        Some(Value::String(word)) if word == "never" => Ok(EarlyStopping::Never),
        Some(_) => Err(ApiError::invalid(
            "early_stopping",
            "`early_stopping` must be false, true or \"never\"",
        )),
    }
}

/// Beams are ranked by the model's own probabilities: nothing is drawn, so nothing is filtered or flattened for it.
fn check_sampling(sampling: &Sampling) -> Result<(), ApiError> {
    let is_plain = sampling.greedy || is_one(f64::from(sampling.temperature));
    let rows = [
        ("temperature", is_plain),
        ("top_p", is_one(f64::from(sampling.top_p))),
        ("top_k", sampling.top_k == 0),
        ("min_p", sampling.min_p <= 0.0),
        ("typical_p", is_one(f64::from(sampling.typical_p))),
    ];
    match rows.into_iter().find(|(_, is_off)| !is_off) {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::invalid(
            name,
            format!(
                "`{name}` is for sampling and beam search takes no chances; leave it out (`temperature` may be 0 or 1)"
            ),
        )),
    }
}
