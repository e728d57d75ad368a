//! `/v1/embeddings`: the request, and vectors in the two forms that OpenAI has for them. Knows no model and no pooling.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ribbon_core::{Pooling, Sampling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::openai::Prompt;
use crate::{
    checks,
    choices::Choices,
    collect::Collected,
    error::ApiError,
    fields::{FieldRules, NONE, Others},
    wish::{Dialect, Wish},
};

pub(crate) const RULES: FieldRules = FieldRules {
    known: &[
        "model",
        "input",
        "encoding_format",
        "user",
        "priority",
        "cache_salt",
    ],
    unsupported: &[
        ("dimensions", NONE),
        ("truncate_prompt_tokens", NONE),
        ("messages", NONE),
    ],
    harmless: &[],
    others: Others::Ignored,
};

/// Body of `/v1/embeddings`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingRequest {
    pub(crate) model: Option<String>,
    pub(crate) input: Option<Prompt>,
    encoding_format: Option<EncodingFormat>,
    pub(crate) user: Option<String>,
    priority: Option<i64>,
    cache_salt: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    extra: Map<String, Value>,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// The bytes of little-endian single-precision numbers.
    Base64,
}

impl EmbeddingRequest {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first one that is unsupported or out of range.
    pub(crate) fn wish(&self, pooling: Pooling) -> Result<Wish, ApiError> {
        RULES.check(&self.extra)?;
        Ok(Wish {
            sampling: Sampling::default(),
            choices: Choices::ONE,
            max_new_tokens: Some(0),
            beams: None,
            pooling: Some(pooling),
            stops: Vec::new(),
            truncate: None,
            ignore_eos: false,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            grammar: None,
            priority: checks::priority(self.priority)?,
            cache_salt: checks::cache_salt(self.cache_salt.as_deref())?,
            dialect: Dialect::Embeddings,
            scored_by: None,
        })
    }

    pub(crate) fn encoding(&self) -> EncodingFormat {
        self.encoding_format.unwrap_or_default()
    }
}

/// Answer of `/v1/embeddings`: a vector for each input, in their order.
#[derive(Serialize, ToSchema)]
pub(crate) struct Embeddings {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    #[serde(rename = "embedding")]
    vector: Vector,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl Embeddings {
    /// Of sequences whose prompts were pooled.
    pub(crate) fn new(read: &[Collected], encoding: EncodingFormat, model: String) -> Self {
        let tokens = read.iter().map(|one| one.running.reported_prompt().0).sum();
        let vectors = read.iter().map(|one| normalised(one.running.pooled()));
        let data = vectors.enumerate().map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            vector: Vector::new(vector, encoding),
        });
        Self {
            object: "list",
            data: data.collect(),
            model,
            usage: EmbeddingUsage {
                prompt_tokens: tokens,
                total_tokens: tokens,
            },
        }
    }
}

impl Vector {
    fn new(vector: Vec<f32>, encoding: EncodingFormat) -> Self {
        match encoding {
            EncodingFormat::Float => Self::Float(vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Of length 1; a vector of nothing but zeros stays what it is.
fn normalised(vector: &[f32]) -> Vec<f32> {
    let squares: f64 = vector.iter().map(|value| f64::from(*value).powi(2)).sum();
    let length = if squares > 0.0 { squares.sqrt() } else { 1.0 };
    let scaled = vector
        .iter()
        .map(|value| (f64::from(*value) / length) as f32);
    scaled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_however_small_or_large_they_were() {
        for scale in [1e-30_f32, 1.0, 1e30] {
            let vector = normalised(&[3.0 * scale, 0.0, -4.0 * scale]);
            let errors = vector
                .iter()
                .zip([0.6, 0.0, -0.8])
                .map(|(a, b)| (a - b).abs());
            assert!(errors.fold(0.0, f32::max) < 1e-6, "{vector:?}");
        }
        assert_eq!(normalised(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
