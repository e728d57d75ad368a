//! What every handler may use. Knows the engines by name; not what they are.

use std::{collections::HashMap, io, sync::Arc};

use axum::http::HeaderMap;
use metrics_exporter_prometheus::PrometheusHandle;
use ribbon_core::Engine;
use ribbon_text::{ChatTemplate, GrammarCheck, Tokenizer};
use tokio::time::Instant;

use crate::{
    caller::{Caller, Names},
    error::{ApiError, Cause},
    estimate::BytesPerToken,
    instruments::Instruments,
    settings::HttpSettings,
    workers::Workers,
};

/// Threads that wait for grammars to be compiled.
const GRAMMAR_THREADS: usize = 2;

/// Engines by model name. A name that is not there is served by the base model.
#[derive(Clone)]
pub struct Engines {
    base: Arc<dyn Engine>,
    by_name: HashMap<String, Arc<dyn Engine>>,
}

impl Engines {
    /// One engine, the base model.
    pub fn single(model_id: impl Into<String>, engine: Arc<dyn Engine>) -> Self {
        Self {
            by_name: HashMap::from([(model_id.into(), engine.clone())]),
            base: engine,
        }
    }

    /// The engine for a request's `model`.
    pub(crate) fn get(&self, model: Option<&str>) -> &Arc<dyn Engine> {
        model
            .and_then(|name| self.by_name.get(name))
            .unwrap_or(&self.base)
    }
}

/// The text side of the served model.
#[derive(Debug)]
pub struct ModelText {
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if it has a usable one.
    pub template: Option<ChatTemplate>,
    /// Tells which grammars can be enforced with its tokens.
    pub grammars: GrammarCheck,
}

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

/// What [`AppState`] shares; opaque outside this crate.
pub struct Inner {
    pub(crate) settings: HttpSettings,
    pub(crate) engines: Engines,
    pub(crate) text: Arc<ModelText>,
    pub(crate) workers: Workers,
    pub(crate) grammar_workers: Workers,
    pub(crate) instruments: Arc<Instruments>,
    pub(crate) prometheus: PrometheusHandle,
    pub(crate) bytes_per_token: BytesPerToken,
    pub(crate) names: Names,
}

impl AppState {
    /// Puts the parts together, and starts the threads that validate. The metrics recorder must be installed before (see
    /// [`crate::metrics::install`]).
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn new(
        settings: HttpSettings,
        engines: Engines,
        text: ModelText,
        prometheus: PrometheusHandle,
    ) -> io::Result<Self> {
        let max_waiting = settings.max_concurrent_requests as usize;
        let num_threads = settings.validation_workers.max(1);
        let workers = Workers::new("validation", num_threads, max_waiting)?;
        let grammar_workers = Workers::new("grammar", GRAMMAR_THREADS, max_waiting)?;
        let instruments = Arc::new(Instruments::new());
        Ok(Self(Arc::new(Inner {
            settings,
            engines,
            text: Arc::new(text),
            workers,
            grammar_workers,
            instruments,
            prometheus,
            bytes_per_token: BytesPerToken::default(),
            names: Names::default(),
        })))
    }

    /// Runs `job`, which reads so many bytes of text, on a validation worker.
    ///
    /// # Errors
    /// As [`Workers::run`], advised.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        bytes: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = self.workers.run(bytes, job).await;
        done.map_err(|error| self.advised(error))
    }

    /// The error of workers; where they have no place, with the engine's advice when to come back.
    pub(crate) fn advised(&self, error: ApiError) -> ApiError {
        match error.cause {
            Cause::Overloaded => error.retry_after(self.engines.get(None).turned_away()),
            _ => error,
        }
    }

    /// What the headers of a request that arrived at `arrived` say of its caller.
    ///
    /// # Errors
    /// One of them has a value it may not have.
    pub(crate) fn caller(&self, headers: &HeaderMap, arrived: Instant) -> Result<Caller, ApiError> {
        let patience = self.settings.request_timeout;
        Caller::read(headers, arrived, patience, &self.names)
    }
}

impl std::ops::Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
