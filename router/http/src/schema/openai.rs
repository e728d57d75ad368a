//! Bodies of `/v1/chat/completions` and `/v1/completions`: OpenAI's fields, TGI's spellings, and vLLM's common extras.

use std::collections::BTreeMap;

use ribbon_core::Sampling;
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use utoipa::ToSchema;

use super::{StopField, chat::ChatFields};
use crate::{
    checks,
    choices::{self, Choices, Noise},
    error::{ApiError, Cause},
    grammar::{Format, GrammarWish, Guided},
    schema::{
        beam_fields::{BeamFields, early_stopping_schema},
        openai_fields::RULES,
    },
    settings::HttpSettings,
    wish::{Dialect, Wish},
};

/// Body of both routes; each refuses the other's own fields.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct OpenAiRequest {
    pub(crate) model: Option<String>,
    pub(crate) messages: Option<Vec<Map<String, Value>>>,
    pub(crate) prompt: Option<Prompt>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
    repetition_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    #[schema(value_type = Option<i64>)]
    seed: Option<Number>,
    stop: Option<StopField>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<Value>,
    top_logprobs: Option<u64>,
    /// Scores of the prompt's tokens, with so many of the likeliest beside each.
    prompt_logprobs: Option<u64>,
    echo: Option<bool>,
    ignore_eos: Option<bool>,
    min_tokens: Option<u64>,
    stop_token_ids: Option<Vec<u32>>,
    n: Option<u64>,
    best_of: Option<u64>,
    /// Search for the likeliest texts with `best_of` beams.
    use_beam_search: Option<bool>,
    /// A text's score is the sum of its tokens' log probabilities ÷ their number to this power.
    length_penalty: Option<f64>,
    /// `false`, `true` or `"never"`, as transformers' `generate` has it.
    #[schema(schema_with = early_stopping_schema)]
    early_stopping: Option<Value>,
    priority: Option<i64>,
    cache_salt: Option<String>,
    response_format: Option<Format>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
    pub(crate) user: Option<String>,
    logit_bias: Option<LogitBias>,
    suffix: Option<String>,
    #[serde(flatten)]
    pub(crate) chat: ChatFields,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// `logit_bias`: what is added to the scores of token ids. TGI's list is taken where it is empty.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "an object of token ids and what is added to their scores, such as {\"50256\": -100}"
)]
enum LogitBias {
    Of(BTreeMap<String, f64>),
    Nothing([f64; 0]),
}

/// `prompt` of `/v1/completions`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of token ids, or a list of such lists"
)]
pub(crate) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    ManyIds(Vec<Vec<u32>>),
}

/// When a stream says how many tokens were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageReport {
    /// Never (chat), or with each prompt's last chunk (completions).
    Default,
    /// In a chunk of its own at the end.
    AtEnd,
    /// In every chunk, and at the end.
    Always,
}

impl OpenAiRequest {
    /// Checks every parameter and draws what is absent.
    ///
    /// # Errors
    /// The first parameter that is unknown, unsupported or out of range.
    pub(crate) fn wish(&mut self, settings: &HttpSettings) -> Result<Wish, ApiError> {
        RULES.check(&self.extra)?;
        self.check_stream_options()?;
        let max_new_tokens = self.max_new_tokens()?;
        let stops = self
            .stop
            .take()
            .map(StopField::into_strings)
            .unwrap_or_default();
        checks::stop_strings(&stops, settings.max_stop_sequences)?;
        let stop_token_ids = self.stop_token_ids.take().unwrap_or_default();
        checks::stop_token_ids(&stop_token_ids)?;
        let mut sampling = self.sampling()?;
        let (choices, width) = self.choices(settings)?;
        let beams = self.beams().checked(width, &mut sampling)?;
        Ok(Wish {
            grammar: self.grammar()?,
            sampling,
            choices,
            beams: beams.filter(|_| max_new_tokens != Some(0)),
            max_new_tokens,
            pooling: None,
            stops,
            truncate: None,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            min_tokens: checks::tokens(self.min_tokens.unwrap_or(0)),
            stop_token_ids,
            priority: checks::priority(self.priority)?,
            cache_salt: checks::cache_salt(self.cache_salt.as_deref())?,
            dialect: Dialect::OpenAi,
            scored_by: None,
        })
    }

    /// How many top tokens chat reports with each token; `None` where it reports no logprobs.
    ///
    /// # Errors
    /// `logprobs` is no boolean, or `top_logprobs` is too large or without it.
    pub(crate) fn chat_logprobs(&self, limit: u32) -> Result<Option<u32>, ApiError> {
        let wanted = match &self.logprobs {
            None => false,
            Some(Value::Bool(wanted)) => *wanted,
            Some(other) => {
                return Err(ApiError::invalid(
                    "logprobs",
                    format!("`logprobs` is {other}; here it is true or false"),
                ));
            }
        };
        let top = checks::top_tokens("top_logprobs", self.top_logprobs, limit)?;
        if top > 0 && !wanted {
            return Err(ApiError::invalid(
                "top_logprobs",
                "`top_logprobs` needs `logprobs: true`",
            ));
        }
        Ok(wanted.then_some(top))
    }

    /// How many top tokens completions report with each token; `None` where they report no logprobs.
    ///
    /// # Errors
    /// `logprobs` is no number, or too large.
    pub(crate) fn completion_logprobs(&self, limit: u32) -> Result<Option<u32>, ApiError> {
        match &self.logprobs {
            None | Some(Value::Bool(false)) => Ok(None),
            Some(Value::Number(number)) if number.is_u64() => {
                checks::top_tokens("logprobs", number.as_u64(), limit).map(Some)
            }
            Some(other) => Err(ApiError::invalid(
                "logprobs",
                format!(
                    "`logprobs` is {other}; here it is a number of top tokens, from 0 to {limit}"
                ),
            )),
        }
    }

    /// Whether completions begin with their prompts.
    pub(crate) fn echoes(&self) -> bool {
        self.echo == Some(true)
    }

    /// Refuses what only completions have.
    pub(crate) fn check_chat_fields(&self) -> Result<(), ApiError> {
        let belongs = |name: &'static str, instead| {
            let message = format!("`{name}` belongs to /v1/completions; here it is `{instead}`");
            Err(ApiError::invalid(name, message))
        };
        match (&self.prompt, self.best_of) {
            (Some(_), _) => belongs("prompt", "messages"),
            (_, Some(best_of)) if best_of != 1 && !self.beams().searches() => {
                belongs("best_of", "n")
            }
            _ if self.echoes() => Err(ApiError::invalid(
                "echo",
                "`echo` belongs to /v1/completions; leave it out",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses what only chat has.
    pub(crate) fn check_completion_fields(&self) -> Result<(), ApiError> {
        self.chat.check_absent()?;
        if self.suffix.is_some() {
            return Err(ApiError::new(
                Cause::Suffix,
                "`suffix` is not supported: the model only goes on with a text; leave it out",
            )
            .at("suffix"));
        }
        match (self.top_logprobs, &self.messages) {
            (Some(1..), _) => Err(ApiError::invalid(
                "top_logprobs",
                "`top_logprobs` belongs to /v1/chat/completions; here it is `logprobs`",
            )),
            (_, Some(_)) => Err(ApiError::invalid(
                "messages",
                "`messages` belongs to /v1/chat/completions; here it is `prompt`",
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(crate) fn usage_report(&self) -> UsageReport {
        let options = self.stream_options.unwrap_or_default();
        match (options.include_usage, options.continuous_usage_stats) {
            (Some(true), Some(true)) => UsageReport::Always,
            (Some(true), _) => UsageReport::AtEnd,
            _ => UsageReport::Default,
        }
    }

    fn beams(&self) -> BeamFields<'_> {
        BeamFields {
            use_beam_search: self.use_beam_search,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping.as_ref(),
        }
    }

    /// The `n` likeliest of `best_of` sequences, and how many beams look for them where a search does.
    fn choices(&self, settings: &HttpSettings) -> Result<(Choices, u32), ApiError> {
        let keep = choices::number("n", self.n, settings.max_best_of)?;
        let best_of = self.best_of.or(self.n);
        let run = choices::number("best_of", best_of, settings.max_best_of)?;
        let searches = self.beams().searches();
        let message = if run < keep {
            format!("`best_of` is {run} and `n` is {keep}; it must be at least as many")
        } else if run > keep && self.is_stream() && !searches {
            format!(
                "`best_of` is {run} and `n` is {keep}; a stream shows all that run, so they must be equal"
            )
        } else {
            let choices = Choices {
                run: if searches { keep } else { run },
                keep,
                noise: Noise::Index,
            };
            return Ok((choices, run));
        };
        Err(ApiError::invalid("best_of", message))
    }

    fn grammar(&mut self) -> Result<Option<GrammarWish>, ApiError> {
        let guided = Guided {
            json: self.guided_json.take(),
            regex: self.guided_regex.take(),
            choice: self.guided_choice.take(),
            grammar: self.guided_grammar.take(),
        };
        GrammarWish::only(self.response_format.take(), guided)
    }

    fn check_stream_options(&self) -> Result<(), ApiError> {
        if self.stream_options.is_some() && !self.is_stream() {
            return Err(ApiError::invalid(
                "stream_options",
                "`stream_options` needs `stream: true`",
            ));
        }
        Ok(())
    }

    fn max_new_tokens(&self) -> Result<Option<u64>, ApiError> {
        if let (Some(old), Some(new)) = (self.max_tokens, self.max_completion_tokens)
            && old != new
        {
            let message =
                format!("`max_tokens` is {old} and `max_completion_tokens` is {new}; give one");
            return Err(ApiError::invalid("max_completion_tokens", message));
        }
        let reads = self.echoes() || self.prompt_logprobs.is_some();
        let asked = [
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_tokens", self.max_tokens),
        ];
        let mut checked = asked.into_iter().map(|(name, value)| match value {
            Some(0) if reads => Ok(Some(0)),
            value => checks::max_new_tokens(name, value),
        });
        let given = checked.find(|length| !matches!(length, Ok(None)));
        given.unwrap_or(Ok(None))
    }

    /// How many of the likeliest tokens stand beside each of the prompt's; `None` where its scores are not shown.
    ///
    /// # Errors
    /// It is too large, or the answer is a stream, which has no place for them.
    pub(crate) fn prompt_logprobs(&self, limit: u32) -> Result<Option<u32>, ApiError> {
        if self.prompt_logprobs.is_some() && self.is_stream() {
            return Err(ApiError::invalid(
                "prompt_logprobs",
                "`prompt_logprobs` come with whole answers; leave `stream` out",
            ));
        }
        let top = checks::top_tokens("prompt_logprobs", self.prompt_logprobs, limit)?;
        Ok(self.prompt_logprobs.map(|_| top))
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let temperature = checks::OPENAI_TEMPERATURE.check("temperature", self.temperature, 1.0)?;
        let is_greedy = f64::from(temperature) < checks::MIN_TEMPERATURE;
        Ok(Sampling {
            greedy: is_greedy,
            temperature: if is_greedy { 1.0 } else { temperature },
            top_k: self.checked_top_k()?,
            top_p: checks::SHARE.check("top_p", self.top_p, 1.0)?,
            min_p: checks::MIN_P.check("min_p", self.min_p, 0.0)?,
            typical_p: checks::SHARE.check("typical_p", self.typical_p, 1.0)?,
            repetition_penalty: checks::REPETITION.check(
                "repetition_penalty",
                self.repetition_penalty,
                1.0,
            )?,
            presence_penalty: checks::PENALTY.check(
                "presence_penalty",
                self.presence_penalty,
                0.0,
            )?,
            count_penalty: checks::PENALTY.check(
                "frequency_penalty",
                self.frequency_penalty,
                0.0,
            )?,
            seed: self.checked_seed()?,
            logit_bias: self.checked_logit_bias()?,
            ..Sampling::default()
        })
    }

    /// 0 and −1 are off, as other servers have it.
    fn checked_top_k(&self) -> Result<u32, ApiError> {
        match self.top_k.unwrap_or(0) {
            -1 => Ok(0),
            top_k if top_k >= 0 => Ok(checks::tokens(top_k.unsigned_abs())),
            top_k => Err(ApiError::invalid(
                "top_k",
                format!("`top_k` is {top_k}; it must be above 0, or 0 or -1 for off"),
            )),
        }
    }

    /// Whether the model has the tokens is checked with its limits.
    fn checked_logit_bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        match &self.logit_bias {
            Some(LogitBias::Of(biases)) => checks::logit_bias(biases),
            Some(LogitBias::Nothing(_)) | None => Ok(Vec::new()),
        }
    }

    /// A negative seed is the same 64 bits.
    fn checked_seed(&self) -> Result<u64, ApiError> {
        let Some(seed) = &self.seed else {
            return Ok(rand::random());
        };
        let bits = seed
            .as_u64()
            .or_else(|| seed.as_i64().map(i64::cast_unsigned));
        bits.ok_or_else(|| {
            let message = format!("seed: {seed} is no 64-bit integer");
            ApiError::new(Cause::Shape, message).at("seed")
        })
    }
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn every_known_name_is_read() {
        for name in RULES.known {
            let request: OpenAiRequest =
                serde_json::from_value(serde_json::json!({*name: null})).unwrap();
            assert!(request.extra.is_empty(), "{name} is listed and not read");
        }
    }

    #[test]
    fn every_known_name_is_documented() {
        let schemas = (OpenAiRequest::schema(), ChatFields::schema());
        let document = serde_json::to_string(&schemas).unwrap();
        for name in RULES.known {
            assert!(document.contains(&format!("\"{name}\":")), "{name}");
        }
    }
}
