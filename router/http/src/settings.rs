//! What the HTTP side is told at start: names and limits. The model's own limits come from the engine once it is warm.

use std::time::Duration;

use axum::http::HeaderValue;
use ribbon_core::{Pooling, Watermark};

use crate::auth::ApiKey;

/// Limits and names of the HTTP side. Every value is checked before it gets here.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Id that `/info` and `/v1/models` show, and the name that requests may ask for.
    pub model_id: String,
    /// Revision of a Hub model.
    pub model_sha: Option<String>,
    /// Requests in the house at once; beyond it 429. At least 1.
    pub max_concurrent_requests: u32,
    /// Largest `best_of`.
    pub max_best_of: u32,
    /// Most stop strings of a request.
    pub max_stop_sequences: usize,
    /// Largest `top_n_tokens` and `top_logprobs`.
    pub max_top_n_tokens: u32,
    /// The mark that `watermark: true` asks for.
    pub watermark: Watermark,
    /// Most prompts of one `/v1/completions` call.
    pub max_client_batch_size: usize,
    /// Largest body, in bytes.
    pub payload_limit: usize,
    /// Threads that render templates and tokenize, one of them kept from long texts. At least 1.
    pub validation_workers: usize,
    /// Value of `x-compute-type`.
    pub compute_type: String,
    /// Commit this was built from.
    pub build_sha: Option<String>,
    /// Label of the container image.
    pub docker_label: Option<String>,
    /// How long a request may take that does not say so itself; absent: as long as it needs.
    pub request_timeout: Option<Duration>,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// Whether requests may bring grammars.
    pub grammar_support: bool,
    /// Keys of which a request must bear one; without any, everybody may ask.
    pub api_keys: Vec<ApiKey>,
    /// Origins whose web pages may call; without any, all may.
    pub allowed_origins: Vec<HeaderValue>,
    /// How `/v1/embeddings` pools; absent: it is not served.
    pub pooling: Option<Pooling>,
    /// Whether `/debug/…` is served.
    pub debug_routes: bool,
    /// Longest silence of a stream: its headers go out no later, and comments keep it alive.
    pub keep_alive: Duration,
}

impl HttpSettings {
    /// The name that an answer gives the model: the asked one, unless that means whichever is served.
    pub(crate) fn shown_model<'a>(&'a self, asked: Option<&'a str>) -> &'a str {
        asked
            .filter(|name| *name != "tgi")
            .unwrap_or(&self.model_id)
    }

    /// TGI's defaults for a model.
    pub fn new(model_id: impl Into<String>) -> Self {
        Self {
            model_id: model_id.into(),
            model_sha: None,
            max_concurrent_requests: 128,
            max_best_of: 2,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            watermark: Watermark {
                gamma: 0.5,
                delta: 2.0,
            },
            max_client_batch_size: 4,
            payload_limit: 2_000_000,
            validation_workers: 2,
            compute_type: "cpu".to_owned(),
            build_sha: None,
            docker_label: None,
            request_timeout: None,
            body_timeout: Duration::from_mins(1),
            grammar_support: true,
            api_keys: Vec::new(),
            allowed_origins: Vec::new(),
            pooling: None,
            debug_routes: false,
            keep_alive: Duration::from_secs(15),
        }
    }
}
