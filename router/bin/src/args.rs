//! The router's command line, as the launcher writes it. The launcher has checked what people typed.

use std::{fmt, net::IpAddr, path::PathBuf};

use clap::Parser;
use ribbon_core::Pooling;

/// A value that is never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

fn pooling(name: &str) -> Result<Pooling, &'static str> {
    match name {
        "mean" => Ok(Pooling::Mean),
        "last" => Ok(Pooling::Last),
        _ => Err("give mean or last"),
    }
}

/// Serves HTTP for one model. Started by ribbon-launcher, whose socket is its standard input.
#[derive(Clone, Debug, Parser)]
#[command(name = "ribbon-router", version)]
pub(crate) struct Args {
    /// Local directory of the model.
    #[arg(long, env)]
    pub(crate) model_path: PathBuf,
    /// Id that clients see.
    #[arg(long, env)]
    pub(crate) model_id: String,
    /// Resolved commit of a Hub model.
    #[arg(long, env)]
    pub(crate) revision: Option<String>,
    /// IP address to listen on.
    #[arg(long, env, default_value = "0.0.0.0")]
    pub(crate) hostname: IpAddr,
    /// Port to listen on; 0 picks a free one.
    #[arg(long, env, default_value_t = 3000)]
    pub(crate) port: u16,
    /// Requests in the house, running or waiting.
    #[arg(long, env, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrent_requests: u32,
    /// Prompt tokens that may wait.
    #[arg(long, env, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_queued_tokens: Option<u64>,
    /// Sequences that may hold a slot at once.
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_batch_size: Option<u32>,
    /// Seconds that a request may take which does not say so itself.
    #[arg(long, env)]
    pub(crate) request_timeout: Option<f64>,
    /// Show sequences what others have computed.
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) prefix_caching: bool,
    /// Refuse grammars.
    #[arg(long, env)]
    pub(crate) disable_grammar_support: bool,
    /// Keys of which a request must bear one, with commas between; the launcher passes them in the environment.
    #[arg(long, env, hide_env_values = true, value_delimiter = ',')]
    pub(crate) api_key: Vec<Secret>,
    /// Origins whose web pages may call; all when absent.
    #[arg(long, env)]
    pub(crate) cors_allow_origin: Vec<String>,
    /// Serve `/v1/embeddings`.
    #[arg(long, env)]
    pub(crate) enable_embeddings: bool,
    /// How embeddings pool: mean or last.
    #[arg(long, env, value_parser = pooling, default_value = "mean")]
    pub(crate) pooling: Pooling,
    /// Serve `/debug/…`.
    #[arg(long, env)]
    pub(crate) debug_routes: bool,
    /// Longest prompt in tokens.
    #[arg(long, env)]
    pub(crate) max_input_tokens: Option<u32>,
    /// Longest prompt plus generation in tokens.
    #[arg(long, env)]
    pub(crate) max_total_tokens: Option<u32>,
    /// Token budget of one step.
    #[arg(long, env)]
    pub(crate) max_batch_prefill_tokens: Option<u32>,
    /// Seconds a step may take.
    #[arg(long, env)]
    pub(crate) step_timeout: Option<f64>,
    /// Seconds a stream waits for a shard to come back.
    #[arg(long, env, default_value_t = 120.0)]
    pub(crate) recovery_timeout: f64,
    /// Largest `best_of`.
    #[arg(long, env, default_value_t = 2)]
    pub(crate) max_best_of: u32,
    /// Most stop strings of a request.
    #[arg(long, env, default_value_t = 4)]
    pub(crate) max_stop_sequences: usize,
    /// Largest `top_n_tokens`.
    #[arg(long, env, default_value_t = 5)]
    pub(crate) max_top_n_tokens: u32,
    /// Share of the vocabulary that `watermark: true` marks green.
    #[arg(long, env, default_value_t = 0.5)]
    pub(crate) watermark_gamma: f32,
    /// What `watermark: true` adds to the scores of green tokens.
    #[arg(long, env, default_value_t = 2.0, allow_negative_numbers = true)]
    pub(crate) watermark_delta: f32,
    /// Most prompts of one completions request.
    #[arg(long, env, default_value_t = 4)]
    pub(crate) max_client_batch_size: usize,
    /// Largest request body in bytes.
    #[arg(long, env, default_value_t = 2_000_000)]
    pub(crate) payload_limit: usize,
    /// Threads that tokenize.
    #[arg(long, env, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) validation_workers: u32,
    /// Log JSON lines.
    #[arg(long, env)]
    pub(crate) json_output: bool,
    /// A level, or a filter such as `warn,ribbon_http=debug`.
    #[arg(long, env, default_value = "info", hide = true)]
    pub(crate) log_level: String,
    /// Colours: `0` never, `1` always, else on a terminal.
    #[arg(long, env, default_value = "", hide = true)]
    pub(crate) log_colorize: String,
}
