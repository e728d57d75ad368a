//! The command line, as people type it: names, defaults and ranges. Knows no process and no plan.
//!
//! Every flag has an environment variable of the same name in upper case; the command line wins.

use std::ffi::OsString;

use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser, ValueEnum,
    builder::{NonEmptyStringValueParser, TypedValueParser},
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use crate::{secret::Secret, tgi_flags};

/// More than any model has heads.
pub(crate) const MOST_SHARDS: u32 = 256;

/// Downloads, starts and watches the processes of one Ribbon server.
#[derive(Clone, Debug, Parser)]
#[command(name = "ribbon-launcher", version)]
pub(crate) struct Args {
    /// Hub id or local directory of the model; the bundled model when absent.
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) model_id: Option<String>,

    /// Branch, tag, commit or `refs/pr/N` of a Hub model.
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) revision: Option<String>,

    /// Where downloaded models are kept, in place of the Hub library's default.
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) huggingface_hub_cache: Option<String>,

    /// Shards that hold the model together, each a process with its share of every layer; they divide this machine's cores among them.
    #[arg(long, env, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SHARDS)))]
    pub(crate) num_shard: u32,

    /// Stages that hold the model's layers one after the other, each of `--num-shard` processes, so that both numbers together make the number of processes. Steps with tokens to sample pass the stages in turn: this saves memory in each process, not time.
    #[arg(long, env, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SHARDS)))]
    pub(crate) pipeline_parallel_size: u32,

    /// Number format of weights and activations; the checkpoint's when absent (float16 becomes bfloat16 on a CPU, float32 where the CPU has no bfloat16 instructions).
    #[arg(long, env)]
    pub(crate) dtype: Option<Dtype>,

    /// Memory for the KV pages of each shard: bytes (`512MiB`, `2000000000`) or a fraction of the shard's part of the memory (`0.8`).
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) kv_memory: Option<String>,

    /// Seconds a step may take before its shard counts as hung; when absent the larger of 30 and 20 times the slowest warm-up step.
    #[arg(long, env, value_parser = seconds)]
    pub(crate) step_timeout: Option<f64>,

    /// Seconds a client's stream waits for a shard to come back.
    #[arg(long, env, default_value = "120", value_parser = seconds)]
    pub(crate) recovery_timeout: f64,

    /// Seconds the first start may take from the end of the download until the model answers.
    #[arg(long, env, default_value = "1800", value_parser = seconds)]
    pub(crate) startup_timeout: f64,

    /// Requests in the house, running or waiting; more are answered 429.
    #[arg(long, env, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_concurrent_requests: u32,

    /// Prompt tokens that may wait for their first step; more are answered 429. Four times what the KV memory holds when absent.
    #[arg(long, env, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_queued_tokens: Option<u64>,

    /// Seconds a request may take that has no `X-Request-Timeout` header; as long as it needs when absent.
    #[arg(long, env, value_parser = seconds)]
    pub(crate) request_timeout: Option<f64>,

    /// Longest prompt in tokens; one less than `--max-total-tokens` when absent.
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_input_tokens: Option<u32>,

    /// The older name of `--max-input-tokens`; giving both is an error.
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_input_length: Option<u32>,

    /// Longest prompt plus generation in tokens; what model and KV memory allow when absent.
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) max_total_tokens: Option<u32>,

    /// Token budget of one step; found by warm-up when absent.
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_batch_prefill_tokens: Option<u32>,

    /// Checked against the other limits, then without effect: the KV memory decides (`--kv-memory`).
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_batch_total_tokens: Option<u32>,

    /// Most sequences that run at once; as many as the token budget of a step allows when absent.
    #[arg(long, env, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_batch_size: Option<u32>,

    /// Checked, then without effect: prompts join every step in chunks, so none waits until enough others do.
    #[arg(long, env, value_parser = ratio)]
    pub(crate) waiting_served_ratio: Option<f64>,

    /// Checked, then without effect, for the same reason.
    #[arg(long, env)]
    pub(crate) max_waiting_tokens: Option<u32>,

    /// Whether prompts reuse what other requests with the same beginning have computed: `true` (or 1) or `false` (or 0). Off, only the sequences of one request (`n`, `best_of`) share their prompt.
    #[arg(long, env, default_value = "true", action = clap::ArgAction::Set, value_parser = on_or_off)]
    pub(crate) prefix_caching: bool,

    /// Largest `best_of` and `n` of a request.
    #[arg(long, env, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_best_of: u32,

    /// Most stop strings of a request.
    #[arg(long, env, default_value_t = 4)]
    pub(crate) max_stop_sequences: u32,

    /// Largest `top_n_tokens` of a request.
    #[arg(long, env, default_value_t = 5)]
    pub(crate) max_top_n_tokens: u32,

    /// Share of the vocabulary that `watermark: true` marks green, above 0 and at most 1.
    #[arg(long, env, default_value = "0.5", value_parser = share)]
    pub(crate) watermark_gamma: f32,

    /// What `watermark: true` adds to the scores of green tokens.
    #[arg(long, env, default_value = "2", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) watermark_delta: f32,

    /// Most prompts of one completions request.
    #[arg(long, env, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_client_batch_size: u32,

    /// Largest request body in bytes.
    #[arg(long, env, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) payload_limit: u64,

    /// Threads that tokenize.
    #[arg(long, env, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) validation_workers: u32,

    /// IP address to listen on. A value of the environment variable that is no address is replaced by 0.0.0.0 with a warning: containers set it to their name.
    #[arg(long, env, default_value = "0.0.0.0")]
    pub(crate) hostname: String,

    /// Port to listen on; 0 picks a free one and logs it.
    #[arg(long, short, env, default_value_t = 3000)]
    pub(crate) port: u16,

    /// Start of the shards' socket paths (`-RANK-GENERATION` is added); a private temporary directory when absent.
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) shard_uds_path: Option<String>,

    /// Seconds that running requests get to finish after the first Ctrl-C or SIGTERM.
    #[arg(long, short, env, default_value_t = 90, value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub(crate) graceful_termination_timeout: u64,

    /// Seconds after SIGTERM in which late requests are still taken while `/ready` says no, part of the time above. Ctrl-C does not wait.
    #[arg(long, env, default_value = "5", value_parser = seconds_or_none)]
    pub(crate) drain_grace: f64,

    /// Seconds that the router may be silent before it counts as hung, which ends the server with exit code 1.
    #[arg(long, env, default_value = "30", value_parser = seconds)]
    pub(crate) router_timeout: f64,

    /// Refuse requests that bring a grammar (`grammar`, `response_format`, `guided_…`).
    #[arg(long, env)]
    pub(crate) disable_grammar_support: bool,

    /// Serve `/v1/embeddings`: what the served model makes of texts, as vectors of length 1.
    #[arg(long, env)]
    pub(crate) enable_embeddings: bool,

    /// How the final states of a text's tokens become one vector; for `--enable-embeddings`.
    #[arg(long, env, default_value = "mean")]
    pub(crate) pooling: Pooling,

    /// Key that requests must bear (`Authorization: Bearer …`); several with commas between, or given again. Health, metrics, `/info`, `/v1/models`, `/chat_tokenize` and the documentation need none.
    #[arg(long, env, value_delimiter = ',', value_parser = NonEmptyStringValueParser::new().map(Secret))]
    pub(crate) api_key: Vec<Secret>,

    /// Origin whose web pages may call; may be given again. All may when absent.
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) cors_allow_origin: Vec<String>,

    /// Serve `/debug/ribbons`, which shows the KV memory as JSON to anybody who can reach the port.
    #[arg(long, env)]
    pub(crate) debug_routes: bool,

    /// Log JSON lines.
    #[arg(long, env)]
    pub(crate) json_output: bool,

    /// File that the first shard appends one JSON line a step to.
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) step_log: Option<String>,

    /// Accepted for compatibility: Ribbon sends no usage statistics, whatever the value.
    #[arg(long, env, default_value = "on")]
    pub(crate) usage_stats: UsageStats,

    /// Print what this machine is, then go on. Has no environment variable.
    #[arg(long = "env", short = 'e')]
    pub(crate) print_env: bool,

    /// For tests: a prompt that contains this token id kills the shard at its fifth generated token.
    #[arg(long, env, hide = true)]
    pub(crate) test_crash_token: Option<u32>,

    /// For tests: `P,SEED`: in this share of the steps that need KV pages, none can be had.
    #[arg(long, env, hide = true)]
    pub(crate) test_fail_allocations: Option<String>,
}

/// Ways to make one vector of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The last token's.
    Last,
}

impl Pooling {
    /// As the command line spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
        }
    }
}

/// Number formats a shard can compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// 32 bits.
    Float32,
    /// 16 bits with the exponent range of float32.
    Bfloat16,
    /// 16 bits.
    Float16,
}

impl Dtype {
    /// As shards spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }
}

/// TGI's choices of what to report home. Ribbon reports nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UsageStats {
    /// TGI's default.
    On,
    /// Nothing.
    Off,
    /// No stack traces.
    NoStack,
}

/// A parsed command line, and what only its origin tells.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) args: Args,
    /// The host name was read from the environment, where containers put their own name.
    pub(crate) hostname_from_env: bool,
}

/// The full command: our flags, and TGI's that are refused by name. Values found in the environment are never printed.
pub(crate) fn command() -> clap::Command {
    Args::command()
        .args(tgi_flags::hidden_args())
        .mut_args(|arg| {
            let takes_value = arg.get_action().takes_values();
            // A negative number is a bad value of its flag, which then can be named.
            arg.hide_env_values(true)
                .allow_negative_numbers(takes_value)
        })
}

/// Reads a command line and the environment variables named like flags.
///
/// # Errors
/// Clap's own, whose exit code is 2 (0 for help and version), also for TGI's flags that are not built yet.
pub(crate) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let mut command = command();
    let words: Vec<OsString> = argv.into_iter().collect();
    let matches = command
        .try_get_matches_from_mut(&words)
        .map_err(|error| name_variable(error, &command, &words))?;
    tgi_flags::refuse(&matches)
        .map_err(|message| command.error(clap::error::ErrorKind::InvalidValue, message))?;
    Ok(Invocation {
        args: Args::from_arg_matches(&matches)?,
        hostname_from_env: from_env(&matches, "hostname"),
    })
}

/// Says which environment variable a bad value came from, when its flag was not typed.
fn name_variable(
    mut error: clap::Error,
    command: &clap::Command,
    words: &[OsString],
) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let flag = shown.split(' ').next().unwrap_or_default().to_owned();
    let typed = words
        .iter()
        .any(|word| word.to_string_lossy().starts_with(&flag));
    let arg = command.get_arguments().find(|arg| {
        arg.get_long()
            .is_some_and(|long| format!("--{long}") == flag)
    });
    if let Some(variable) = arg.and_then(clap::Arg::get_env).filter(|_| !typed) {
        let tip = format!(
            "the value comes from the environment variable {}",
            variable.to_string_lossy()
        );
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

fn from_env(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::EnvVariable)
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if value.is_finite() && value > 0.0 && value <= 1e9 {
        Ok(value)
    } else {
        Err("seconds must be above 0 and at most 1e9".to_owned())
    }
}

/// As [`seconds`], and 0.
fn seconds_or_none(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) {
        return Ok(0.0);
    }
    seconds(text)
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a ratio is a number, 0 or above".to_owned()),
    }
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("it is a number above 0 and at most 1".to_owned()),
    }
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("it is a finite number".to_owned()),
    }
}

/// TGI reads the variable as `1` or `true`.
fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("it is true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests;
