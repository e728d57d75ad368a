//! Ranges of request parameters. What passes here is usable everywhere behind it; what does not is named with its limit.

use std::{collections::BTreeMap, sync::Arc};

use crate::error::ApiError;

/// Below this temperature the highest score wins anyway, and dividing by it overflows: it means greedy.
pub(crate) const MIN_TEMPERATURE: f64 = 1e-4;

/// The values a number may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    low: f64,
    high: f64,
    /// Whether `low` and `high` themselves belong to it.
    closed: (bool, bool),
}

/// TGI wants it above 0.
pub(crate) const NATIVE_TEMPERATURE: Range = Range::new((0.0, 1e6), (false, true));
/// 0 is greedy.
pub(crate) const OPENAI_TEMPERATURE: Range = Range::new((0.0, 1e6), (true, true));
/// A share of the probability; all of it is off.
pub(crate) const SHARE: Range = Range::new((0.0, 1.0), (false, true));
/// A share that may be none; none is off.
pub(crate) const MIN_P: Range = Range::new((0.0, 1.0), (true, true));
/// OpenAI's additive penalties, and TGI's relative one.
pub(crate) const PENALTY: Range = Range::new((-2.0, 2.0), (true, true));
/// The power of its length that a beam's score is divided by; with any length that fits, the score stays a number.
pub(crate) const LENGTH_PENALTY: Range = Range::new((-10.0, 10.0), (true, true));
/// A factor on scores and a divisor of them; beyond it they overflow.
pub(crate) const REPETITION: Range = Range::new((1e-4, 1e4), (true, true));
/// A place in the queue; lower goes first.
const PRIORITIES: std::ops::RangeInclusive<i64> = -1_000_000..=1_000_000;
/// Longest `cache_salt`.
const MAX_SALT_BYTES: usize = 1024;

impl Range {
    const fn new((low, high): (f64, f64), closed: (bool, bool)) -> Self {
        Self { low, high, closed }
    }

    #[expect(clippy::float_cmp, reason = "the bounds themselves are meant")]
    fn contains(self, value: f64) -> bool {
        let above = value > self.low || (self.closed.0 && value == self.low);
        let below = value < self.high || (self.closed.1 && value == self.high);
        above && below
    }

    fn words(self) -> String {
        let (low, high) = (
            if self.closed.0 { ">=" } else { ">" },
            if self.closed.1 { "<=" } else { "<" },
        );
        format!("{low} {} and {high} {}", self.low, self.high)
    }

    /// The value if it is in the range, `default` if absent.
    pub(crate) fn check(
        self,
        name: &'static str,
        value: Option<f64>,
        default: f32,
    ) -> Result<f32, ApiError> {
        let Some(value) = value else {
            return Ok(default);
        };
        if self.contains(value) {
            // What is above 0 stays above 0 in single precision.
            let least = if value > 0.0 {
                f32::MIN_POSITIVE
            } else {
                f32::MIN
            };
            return Ok((value as f32).max(least));
        }
        Err(ApiError::invalid(
            name,
            format!("`{name}` is {value}; it must be {}", self.words()),
        ))
    }
}

/// A count of tokens that fits the wire; larger ones are beyond every limit and refused by it.
pub(crate) fn tokens(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// `max_new_tokens` under whatever name the route has for it: at least 1.
pub(crate) fn max_new_tokens(
    name: &'static str,
    value: Option<u64>,
) -> Result<Option<u64>, ApiError> {
    match value {
        Some(0) => Err(ApiError::invalid(
            name,
            format!("`{name}` is 0; it must be at least 1"),
        )),
        value => Ok(value),
    }
}

/// A place in the queue; absent is 0.
pub(crate) fn priority(value: Option<i64>) -> Result<i32, ApiError> {
    let value = value.unwrap_or(0);
    if PRIORITIES.contains(&value) {
        return Ok(value as i32);
    }
    let (low, high) = (PRIORITIES.start(), PRIORITIES.end());
    Err(ApiError::invalid(
        "priority",
        format!("`priority` is {value}; it must be from {low} to {high}, lower goes first"),
    ))
}

/// A secret that keeps computed prefixes apart.
pub(crate) fn cache_salt(value: Option<&str>) -> Result<Option<Arc<str>>, ApiError> {
    match value.map(|salt| (salt, salt.len())) {
        None => Ok(None),
        Some((salt, 1..=MAX_SALT_BYTES)) => Ok(Some(salt.into())),
        Some((_, bytes)) => Err(ApiError::invalid(
            "cache_salt",
            format!("`cache_salt` has {bytes} bytes; it must have from 1 to {MAX_SALT_BYTES}"),
        )),
    }
}

/// Longest stop string; matching one costs eight times its bytes of memory.
const MAX_STOP_BYTES: usize = 16 << 10;

/// Stop strings: not too many, none empty, none beyond any use.
pub(crate) fn stop_strings(stops: &[String], limit: usize) -> Result<(), ApiError> {
    if stops.len() > limit {
        let message = format!(
            "`stop` has {} strings; this server allows {limit} (`--max-stop-sequences`)",
            stops.len()
        );
        return Err(ApiError::invalid("stop", message));
    }
    let lengths = || stops.iter().map(String::len);
    let message = match (lengths().min(), lengths().max()) {
        (Some(0), _) => {
            "`stop` has an empty string, which every text ends with; leave it out".to_owned()
        }
        (_, Some(longest)) if longest > MAX_STOP_BYTES => {
            format!("`stop` has a string of {longest} bytes; the limit is {MAX_STOP_BYTES}")
        }
        _ => return Ok(()),
    };
    Err(ApiError::invalid("stop", message))
}

/// What OpenAI allows to be added to a score.
const BIAS: Range = Range::new((-100.0, 100.0), (true, true));
/// Most tokens whose score is changed.
const MAX_BIASES: usize = 1024;

/// Token ids, as text, and what is added to their scores.
pub(crate) fn logit_bias(biases: &BTreeMap<String, f64>) -> Result<Vec<(u32, f32)>, ApiError> {
    if biases.len() > MAX_BIASES {
        let message = format!(
            "`logit_bias` has {} tokens; the limit is {MAX_BIASES}",
            biases.len()
        );
        return Err(ApiError::invalid("logit_bias", message));
    }
    let checked = |(id, value): (&String, &f64)| {
        let token = id.parse().map_err(|_| {
            let shown: String = id.chars().take(64).collect();
            let message = format!("`logit_bias` has the key `{shown}`; keys are token ids");
            ApiError::invalid("logit_bias", message)
        })?;
        Ok((token, BIAS.check("logit_bias", Some(*value), 0.0)?))
    };
    biases.iter().map(checked).collect()
}

/// How many top tokens are reported.
pub(crate) fn top_tokens(
    name: &'static str,
    value: Option<u64>,
    limit: u32,
) -> Result<u32, ApiError> {
    let asked = value.unwrap_or(0);
    if asked > u64::from(limit) {
        return Err(ApiError::invalid(
            name,
            format!("`{name}` is {asked}; this server allows {limit} (`--max-top-n-tokens`)"),
        ));
    }
    Ok(asked as u32)
}

/// Most stop token ids of a request.
const MAX_STOP_TOKEN_IDS: usize = 64;

/// Token ids that end the sequence: not too many; whether the model has them is checked with its limits.
pub(crate) fn stop_token_ids(ids: &[u32]) -> Result<(), ApiError> {
    if ids.len() > MAX_STOP_TOKEN_IDS {
        let message = format!(
            "`stop_token_ids` has {} ids; the limit is {MAX_STOP_TOKEN_IDS}",
            ids.len()
        );
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    Ok(())
}
