//! The seam between HTTP and whatever makes tokens: submit a sequence, get a stream of tokens.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_core::Stream;
use thiserror::Error;

use crate::{FinishReason, Limits, RibbonsSnapshot, Sampling, ShardDescription};

/// One sequence to generate, already validated.
#[derive(Clone, Debug)]
pub struct SequenceRequest {
    /// The prompt; never empty, never longer than `Limits::max_input_tokens`.
    pub prompt: Arc<[u32]>,
    /// Most tokens to generate; prompt + this fits `Limits::max_total_tokens`. With 0 the prompt is read and nothing follows:
    /// what is wanted are its scores (`Sampling::prompt_top_tokens`) or its states (`pooling`).
    pub max_new_tokens: u32,
    /// Say what the model made of the prompt, as one vector; only where nothing is generated.
    pub pooling: Option<Pooling>,
    /// How to pick tokens.
    pub sampling: Arc<Sampling>,
    /// Tokens that end the sequence, the model's EOS included unless it is ignored.
    pub stop_token_ids: Arc<[u32]>,
    /// Stop tokens cannot be sampled before so many generated tokens.
    pub min_tokens: u32,
    /// W3C trace context.
    pub traceparent: Option<Arc<str>>,
    /// Keeps computed prefixes apart: only requests with the same salt show each other's.
    pub cache_salt: Option<Arc<str>>,
    /// Who asks, for fairness: API key and `user`, never in clear.
    pub tenant: Option<Arc<str>>,
    /// Lower goes first; 0 is usual.
    pub priority: i32,
    /// When nobody wants the answer any more: the sequence then ends with [`StreamError::Expired`].
    pub deadline: Option<Instant>,
}

impl SequenceRequest {
    /// Names its parameters in logs, the seed apart (FNV-1a of their text form).
    pub fn parameter_hash(&self) -> u64 {
        let sampling = Sampling {
            seed: 0,
            ..Sampling::clone(&self.sampling)
        };
        let limits = (self.max_new_tokens, self.min_tokens, &self.stop_token_ids);
        let text = format!("{sampling:?}{limits:?}{:?}", self.pooling);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// How the final states of a prompt's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean, summed in single precision.
    Mean,
    /// The last token's.
    Last,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// Log probability among the filtered scores.
    pub logprob: f32,
    /// Most likely tokens, most likely first, when asked for.
    pub top: Vec<(u32, f32)>,
}

/// What the model thought of a token that was known already.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// Log probability among the raw scores.
    pub logprob: f32,
    /// Most likely tokens in its place, most likely first, when asked for.
    pub top: Vec<(u32, f32)>,
}

/// What a stream yields. The item with a `finish` is the last.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// The token; absent on the one event of a sequence that was to generate none.
    pub token: Option<Token>,
    /// Set on the last token. A stop token gives `EosToken` even where it is also the last allowed one; `Length` means that
    /// the last allowed token was no stop token. `StopSequence` never comes from here: stop strings are text.
    pub finish: Option<FinishReason>,
    /// Time the sequence waited before its first step; the same on every event.
    pub queued: Duration,
    /// Prompt tokens that were not computed but shown from another sequence's storage; the same on every event.
    pub cached_tokens: u32,
    /// Scores of the prompt's tokens from the second on; on the first event, where asked for.
    pub prompt: Option<Box<[TokenScore]>>,
    /// The prompt's states as one vector, of whatever length, where asked for.
    pub pooled: Option<Box<[f32]>>,
}

/// Why a stream ended without a finish reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The model could not compute this sequence.
    #[error("the model could not compute this request: {0}")]
    Generation(String),
    /// The shards did not come back in time.
    #[error("the model did not come back within {} s (`--recovery-timeout`)", .0.as_secs())]
    RecoveryTimeout(Duration),
    /// Its deadline has passed.
    #[error("the request's time is over (`X-Request-Timeout`, `--request-timeout`)")]
    Expired,
    /// A search came to its end with fewer sequences than were to be found.
    #[error("`n` is {wanted}; beam search found {found}, the grammar or the stops allow no more")]
    FewSequences {
        /// How many there are.
        found: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// The server stops.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The queue is full.
    #[error(
        "the server is overloaded: {running} requests are running or waiting, the limit is {limit} (`--max-concurrent-requests`)"
    )]
    Overloaded {
        /// Requests in the house.
        running: u32,
        /// How many may be.
        limit: u32,
        /// When to try again.
        retry_after: Duration,
    },
    /// Too many prompt tokens wait.
    #[error(
        "the server is overloaded: {queued} prompt tokens are waiting, the limit is {limit} (`--max-queued-tokens`)"
    )]
    QueueFull {
        /// Prompt tokens of the requests that wait.
        queued: u64,
        /// How many may be.
        limit: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// No shard is live yet.
    #[error("the model is not ready yet")]
    NotReady {
        /// When to try again.
        retry_after: Duration,
    },
    /// The request can never fit.
    #[error(
        "the request needs {needed} tokens of KV memory, this server has {limit} (`--kv-memory`)"
    )]
    NeverFits {
        /// Tokens it needs.
        needed: u64,
        /// Tokens there are.
        limit: u64,
    },
    /// The server is draining.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// What the engine is doing, for health and readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// No shard has been live yet.
    Starting,
    /// Steps are made.
    Ready,
    /// A step is over its deadline, or the shard is gone and not back yet.
    Recovering,
    /// No new requests; running ones finish.
    Draining,
}

/// A snapshot of the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Sequences with a slot.
    pub running: u32,
    /// Sequences without one.
    pub queued: u32,
}

/// Tokens of one sequence. Dropping it before the end cancels the sequence.
pub trait Tokens: Stream<Item = Result<TokenEvent, StreamError>> + Send {
    /// The client has all it wanted, such as a stop string: dropping the stream now finishes the sequence.
    fn enough(self: Pin<&mut Self>);
}

/// Tokens of one sequence, whoever makes them.
pub type TokenStream = Pin<Box<dyn Tokens>>;

/// One way on of a [`Search`]: a history of which the next token is wanted.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the search was begun with, for exactly one token more than `generated` has.
    pub request: SequenceRequest,
    /// What the caller picked so far; counts as generated, and as computed but for its last token.
    pub generated: Vec<u32>,
}

/// A request whose tokens the caller picks: it asks for one after the other, along several lines at once. It was taken once
/// and goes on whatever else waits. Dropping it gives its place back.
pub trait Search: Send {
    /// The next token of each line: one stream each, which ends with it. Never refused.
    fn round(&mut self, lines: Vec<Line>) -> Vec<TokenStream>;
}

/// Makes tokens. Used by `http`; the scheduler is one.
pub trait Engine: Send + Sync + 'static {
    /// Takes all sequences of one request, or none and says why. They count as one request; those with equal prompts
    /// share their computation. One stream each, in their order. Never blocks.
    ///
    /// # Errors
    /// See [`Refusal`].
    fn submit(&self, group: Vec<SequenceRequest>) -> Result<Vec<TokenStream>, Refusal>;

    /// Takes one request whose tokens the caller picks, with one search for each prompt of `group`.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    fn search(&self, group: Vec<SequenceRequest>) -> Result<Vec<Box<dyn Search>>, Refusal>;

    /// Whether a request of about so many prompt tokens would be taken now. Takes nothing.
    ///
    /// # Errors
    /// What [`Engine::submit`] would say, as far as it can be known without the request.
    fn room(&self, prompt_tokens: u64) -> Result<(), Refusal>;

    /// Limits in force, absent until a shard was warm once.
    fn limits(&self) -> Option<Arc<Limits>>;

    /// The model, absent until a shard was warm once.
    fn description(&self) -> Option<Arc<ShardDescription>>;

    /// What it is doing.
    fn state(&self) -> EngineState;

    /// Whether steps are made, or could be: what [`EngineState`] says, but for a draining engine, which may lose its shard.
    fn makes_steps(&self) -> bool {
        matches!(self.state(), EngineState::Ready | EngineState::Draining)
    }

    /// A request was refused for lack of room before it came here: it counts as shed. When to try again.
    fn turned_away(&self) -> Duration;

    /// How busy it is.
    fn load(&self) -> EngineLoad;

    /// What its KV memory looks like now, for people; absent while no shard is live, or where there is none.
    fn debug(&self) -> DebugAnswer {
        Box::pin(std::future::ready(None))
    }
}

/// The answer to [`Engine::debug`], once the engine comes to it.
pub type DebugAnswer = Pin<Box<dyn Future<Output = Option<RibbonsSnapshot>> + Send>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sampling: Sampling) -> SequenceRequest {
        SequenceRequest {
            prompt: Arc::from([1]),
            max_new_tokens: 8,
            pooling: None,
            sampling: Arc::new(sampling),
            stop_token_ids: Arc::from([2]),
            min_tokens: 0,
            traceparent: None,
            cache_salt: None,
            tenant: None,
            priority: 0,
            deadline: None,
        }
    }

    #[test]
    fn a_hash_names_the_parameters_whatever_the_prompt_and_the_seed() {
        let plain = request(Sampling::default());
        let mut alike = request(Sampling {
            seed: 7,
            ..Sampling::default()
        });
        alike.prompt = Arc::from([3, 4]);
        assert_eq!(plain.parameter_hash(), alike.parameter_hash());
        let warm = request(Sampling {
            temperature: 0.5,
            ..Sampling::default()
        });
        let mut longer = plain.clone();
        longer.max_new_tokens = 9;
        for other in [warm, longer] {
            assert_ne!(plain.parameter_hash(), other.parameter_hash());
        }
    }
}
