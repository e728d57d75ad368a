//! Bodies of the native routes, with TGI's names, ranges and order of checks.

use ribbon_core::Sampling;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::StopField;
use crate::{
    checks,
    choices::{self, Choices, Noise},
    error::ApiError,
    fields::{FieldRules, NONE, Others},
    grammar::{Format, GrammarWish},
    settings::HttpSettings,
    wish::{Dialect, Wish},
};

/// Body of `/generate`, `/generate_stream`, `/` and `/tokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct GenerateRequest {
    pub(crate) inputs: String,
    pub(crate) parameters: Option<Parameters>,
    pub(crate) stream: Option<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

/// `parameters`; a missing field is `None`, as is `null`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Parameters {
    best_of: Option<u64>,
    temperature: Option<f64>,
    repetition_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    typical_p: Option<f64>,
    min_p: Option<f64>,
    do_sample: Option<bool>,
    max_new_tokens: Option<u64>,
    pub(crate) return_full_text: Option<bool>,
    stop: Option<StopField>,
    truncate: Option<u64>,
    details: Option<bool>,
    decoder_input_details: Option<bool>,
    seed: Option<u64>,
    top_n_tokens: Option<u64>,
    watermark: Option<bool>,
    ignore_eos: Option<bool>,
    min_tokens: Option<u64>,
    stop_token_ids: Option<Vec<u32>>,
    priority: Option<i64>,
    cache_salt: Option<String>,
    grammar: Option<Format>,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

pub(crate) const TOP_LEVEL: FieldRules = FieldRules {
    known: &["inputs", "parameters", "stream"],
    unsupported: &[],
    harmless: &["options"],
    others: Others::Refused,
};

pub(crate) const PARAMETERS: FieldRules = FieldRules {
    known: &[
        "best_of",
        "temperature",
        "repetition_penalty",
        "frequency_penalty",
        "top_k",
        "top_p",
        "typical_p",
        "min_p",
        "do_sample",
        "max_new_tokens",
        "return_full_text",
        "stop",
        "truncate",
        "details",
        "decoder_input_details",
        "seed",
        "top_n_tokens",
        "watermark",
        "ignore_eos",
        "min_tokens",
        "stop_token_ids",
        "priority",
        "cache_salt",
        "grammar",
    ],
    unsupported: &[("adapter_id", NONE)],
    harmless: &[],
    others: Others::Refused,
};

impl GenerateRequest {
    /// A text to go on with, sampled.
    pub(crate) fn sampled(inputs: String, max_new_tokens: Option<u64>, seed: Option<u64>) -> Self {
        Self {
            inputs,
            parameters: Some(Parameters {
                do_sample: Some(true),
                max_new_tokens,
                seed,
                ..Parameters::default()
            }),
            stream: None,
            extra: Map::new(),
        }
    }

    /// Refuses fields that are not read.
    ///
    /// # Errors
    /// The first one that is unknown or not supported.
    pub(crate) fn check_fields(&self) -> Result<(), ApiError> {
        TOP_LEVEL.check(&self.extra)?;
        let parameters = self.parameters.as_ref();
        parameters.map_or(Ok(()), |parameters| PARAMETERS.check(&parameters.extra))
    }

    /// Checks every parameter and draws what is absent. Absent `parameters` sample, present ones are greedy by default.
    ///
    /// # Errors
    /// The first parameter that is unknown, unsupported or out of range, in TGI's order.
    pub(crate) fn wish(
        &mut self,
        settings: &HttpSettings,
        is_stream: bool,
    ) -> Result<Wish, ApiError> {
        self.check_fields()?;
        let sample_by_default = self.parameters.is_none();
        let parameters = self.parameters.get_or_insert_default();
        let choices = parameters.choices(settings, is_stream)?;
        parameters.check_prompt_details(is_stream)?;
        let sampling = parameters.sampling(sample_by_default)?;
        let wish = Wish {
            choices,
            ..parameters.wish(settings, sampling)?
        };
        if self.inputs.is_empty() {
            return Err(ApiError::invalid("inputs", "`inputs` is empty"));
        }
        Ok(wish)
    }

    /// Refuses a `stream` that contradicts the route.
    pub(crate) fn check_stream(&self, is_stream: bool) -> Result<(), ApiError> {
        match self.stream {
            Some(asked) if asked != is_stream => {
                let route = if asked {
                    "/generate_stream"
                } else {
                    "/generate"
                };
                Err(ApiError::invalid(
                    "stream",
                    format!("`stream` is {asked}; use {route}"),
                ))
            }
            _ => Ok(()),
        }
    }
}

impl Parameters {
    /// `best_of` runs of one request; the likeliest is the answer.
    fn choices(&self, settings: &HttpSettings, is_stream: bool) -> Result<Choices, ApiError> {
        let best_of = match self.best_of {
            Some(best_of) if is_stream && best_of != 1 => {
                let message = format!("`best_of` is {best_of}; a stream has exactly 1");
                return Err(ApiError::invalid("best_of", message));
            }
            Some(0) => 1,
            best_of => choices::number("best_of", best_of, settings.max_best_of)?,
        };
        if best_of == 1 {
            return Ok(Choices::ONE);
        }
        if !self.asks_for_sampling() {
            let message = format!(
                "`best_of` is {best_of}; without sampling all runs are the same: set `do_sample` or a sampling parameter"
            );
            return Err(ApiError::invalid("best_of", message));
        }
        Ok(Choices {
            run: best_of,
            keep: 1,
            noise: Noise::Seed,
        })
    }

    /// Several runs have several seeds. TGI looks at it between the stop strings and the top tokens.
    fn check_seed(&self) -> Result<(), ApiError> {
        match (self.best_of, self.seed) {
            (Some(best_of @ 2..), Some(_)) => Err(ApiError::invalid(
                "seed",
                format!("`best_of` is {best_of}; each run draws its own `seed`, so leave that out"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the answer says more than its text.
    pub(crate) fn shows_details(&self) -> bool {
        self.details == Some(true) || self.decoder_input_details == Some(true)
    }

    /// A stream's events are of generated tokens alone.
    fn check_prompt_details(&self, is_stream: bool) -> Result<(), ApiError> {
        if is_stream && self.decoder_input_details == Some(true) {
            let message =
                "`decoder_input_details` is true; a stream does not show the prompt, use /generate";
            return Err(ApiError::invalid("decoder_input_details", message));
        }
        Ok(())
    }

    fn asks_for_sampling(&self) -> bool {
        let filters = [self.temperature, self.top_p, self.typical_p, self.min_p];
        self.do_sample == Some(true) || self.top_k.is_some() || filters.iter().any(Option::is_some)
    }

    #[expect(clippy::float_cmp, reason = "any value but 1 itself asks for sampling")]
    fn sampling(&self, sample_by_default: bool) -> Result<Sampling, ApiError> {
        let temperature = checks::NATIVE_TEMPERATURE.check("temperature", self.temperature, 1.0)?;
        let repetition_penalty =
            checks::REPETITION.check("repetition_penalty", self.repetition_penalty, 1.0)?;
        let frequency_penalty =
            checks::PENALTY.check("frequency_penalty", self.frequency_penalty, 0.0)?;
        let top_p = checks::SHARE.check("top_p", self.top_p, 1.0)?;
        let typical_p = checks::SHARE.check("typical_p", self.typical_p, 1.0)?;
        let top_k = self.checked_top_k()?;
        let min_p = checks::MIN_P.check("min_p", self.min_p, 0.0)?;
        let filters = top_k != 0 || top_p < 1.0 || typical_p < 1.0 || min_p > 0.0;
        let samples = self.do_sample.unwrap_or(sample_by_default) || temperature != 1.0 || filters;
        let is_greedy = !samples || f64::from(temperature) < checks::MIN_TEMPERATURE;
        Ok(Sampling {
            greedy: is_greedy,
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            repetition_penalty,
            frequency_penalty,
            ..Sampling::default()
        })
    }

    fn grammar_wish(&mut self) -> Result<Option<GrammarWish>, ApiError> {
        match self.grammar.take().map(|format| format.wish("grammar")) {
            Some(wish) => wish,
            None => Ok(None),
        }
    }

    fn checked_top_k(&self) -> Result<u32, ApiError> {
        match self.top_k {
            None => Ok(0),
            Some(top_k) if top_k > 0 => Ok(checks::tokens(top_k.unsigned_abs())),
            Some(top_k) => Err(ApiError::invalid(
                "top_k",
                format!("`top_k` is {top_k}; it must be above 0, or absent"),
            )),
        }
    }

    fn wish(&mut self, settings: &HttpSettings, sampling: Sampling) -> Result<Wish, ApiError> {
        let max_new_tokens = checks::max_new_tokens("max_new_tokens", self.max_new_tokens)?;
        let stops = self
            .stop
            .take()
            .map(StopField::into_strings)
            .unwrap_or_default();
        checks::stop_strings(&stops, settings.max_stop_sequences)?;
        self.check_seed()?;
        let top_tokens =
            checks::top_tokens("top_n_tokens", self.top_n_tokens, settings.max_top_n_tokens)?;
        let stop_token_ids = self.stop_token_ids.take().unwrap_or_default();
        checks::stop_token_ids(&stop_token_ids)?;
        let mut wish = Wish {
            grammar: self.grammar_wish()?,
            sampling: Sampling {
                top_tokens,
                watermark: (self.watermark == Some(true)).then_some(settings.watermark),
                seed: self.seed.unwrap_or_else(rand::random),
                ..sampling
            },
            choices: Choices::ONE,
            max_new_tokens,
            beams: None,
            pooling: None,
            stops,
            truncate: self.truncate,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            min_tokens: checks::tokens(self.min_tokens.unwrap_or(0)),
            stop_token_ids,
            priority: checks::priority(self.priority)?,
            cache_salt: checks::cache_salt(self.cache_salt.as_deref())?,
            dialect: Dialect::Native,
            scored_by: None,
        };
        let details = self.decoder_input_details == Some(true);
        wish.score_prompt("decoder_input_details", details.then_some(0));
        Ok(wish)
    }
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn every_known_name_is_documented() {
        let schemas = (GenerateRequest::schema(), Parameters::schema());
        let document = serde_json::to_string(&schemas).unwrap();
        for name in TOP_LEVEL.known.iter().chain(PARAMETERS.known) {
            assert!(document.contains(&format!("\"{name}\":")), "{name}");
        }
    }

    #[test]
    fn every_known_name_is_read() {
        for name in PARAMETERS.known {
            let parameters: Parameters =
                serde_json::from_value(serde_json::json!({*name: null})).unwrap();
            assert!(parameters.extra.is_empty(), "{name} is listed and not read");
        }
    }
}
