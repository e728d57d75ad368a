//! From arguments to what each process is started with. Pure: knows no environment, no process and no clock.

use std::{ffi::OsString, net::IpAddr, path::Path, time::Duration};

use serde::Deserialize;

use crate::{
    args::{Args, Invocation, MOST_SHARDS},
    error::LaunchError,
    kv_memory,
    secret::Secret,
};

/// Everything a launch needs to know, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LaunchPlan {
    /// Arguments of `ribbon-server download`.
    pub(crate) download: Vec<OsString>,
    /// Directory of downloaded models, when it is not the Hub library's own.
    pub(crate) hub_cache: Option<String>,
    /// Processes that hold the model together.
    pub(crate) num_shards: u32,
    /// Stages of a pipeline that these make.
    num_stages: u32,
    /// Arguments of `ribbon-server serve` that are the same for every rank and generation.
    shard: Vec<OsString>,
    /// File for the step log of the first rank.
    step_log: Option<String>,
    /// Arguments of the router that do not depend on the model.
    router: Vec<OsString>,
    /// Keys for the router, which gets them in its environment: a command line can be read by everybody.
    pub(crate) api_keys: Option<Secret>,
    /// Start of the shards' socket paths, when it is not a private directory of ours.
    pub(crate) socket_prefix: Option<String>,
    /// For the line that says where the server is.
    pub(crate) hostname: IpAddr,
    /// Limit of the first start.
    pub(crate) startup_timeout: Duration,
    /// Limit of a drain.
    pub(crate) graceful_timeout: Duration,
    /// Time after SIGTERM in which late requests are still taken.
    pub(crate) drain_grace: Duration,
    /// Longest silence of the router.
    pub(crate) router_timeout: Duration,
    /// What the operator should hear before anything starts.
    pub(crate) warnings: Vec<String>,
}

/// The model, as `ribbon-server download` resolved it.
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the JSON and of the flags"
)]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Model {
    /// Local directory.
    pub(crate) model_path: String,
    /// The id that the API shows.
    pub(crate) model_id: String,
    /// Resolved commit of a Hub model.
    pub(crate) revision: Option<String>,
}

impl LaunchPlan {
    /// Checks what the flags say together.
    ///
    /// # Errors
    /// [`LaunchError::Arguments`] names the flags that contradict each other.
    pub(crate) fn new(invocation: &Invocation) -> Result<Self, LaunchError> {
        let args = &invocation.args;
        let mut warnings = Vec::new();
        let hostname = hostname(invocation, &mut warnings)?;
        let max_input_tokens = max_input_tokens(args)?;
        check_limits(args, max_input_tokens)?;
        check_kv_memory(args)?;
        let num_shards = num_shards(args)?;
        warnings.extend(without_effect(args));
        Ok(Self {
            download: download_arguments(args),
            hub_cache: args.huggingface_hub_cache.clone(),
            num_shards,
            num_stages: args.pipeline_parallel_size,
            shard: shard_arguments(args),
            step_log: args.step_log.clone(),
            router: router_arguments(args, hostname, max_input_tokens),
            api_keys: api_keys(args)?,
            socket_prefix: args.shard_uds_path.clone(),
            hostname,
            startup_timeout: Duration::from_secs_f64(args.startup_timeout),
            graceful_timeout: Duration::from_secs(args.graceful_termination_timeout),
            drain_grace: Duration::from_secs_f64(args.drain_grace),
            router_timeout: Duration::from_secs_f64(args.router_timeout),
            warnings,
        })
    }

    /// Arguments of one shard process.
    pub(crate) fn shard_arguments(&self, model: &Model, seat: &Seat<'_>) -> Vec<OsString> {
        let mut line = Line::new("serve");
        line.model(model)
            .flag("uds-path", seat.socket)
            .flag("generation", seat.generation.to_string());
        line.flag("rank", seat.rank.to_string())
            .flag("world-size", self.num_shards.to_string());
        let num_stages = (self.num_stages > 1).then_some(self.num_stages);
        line.optional("pipeline-parallel-size", num_stages);
        if let Some(path) = seat.meeting_point {
            line.flag("meeting-point", path);
        }
        line.optional(
            "step-log",
            self.step_log.as_ref().filter(|_| seat.rank == 0),
        );
        [line.0, self.shard.clone()].concat()
    }

    /// Arguments of the router process.
    pub(crate) fn router_arguments(&self, model: &Model) -> Vec<OsString> {
        let mut line = Line(Vec::new());
        line.model(model);
        [line.0, self.router.clone()].concat()
    }
}

/// Which shard a process is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat<'a> {
    /// Counts from 0.
    pub(crate) rank: u32,
    /// Counts from 1.
    pub(crate) generation: u64,
    /// Where it listens.
    pub(crate) socket: &'a Path,
    /// Where it finds the other ranks, if there are any.
    pub(crate) meeting_point: Option<&'a Path>,
}

/// A command line that grows.
struct Line(Vec<OsString>);

impl Line {
    fn new(subcommand: &str) -> Self {
        Self(vec![subcommand.into()])
    }

    /// `--name=value`, one word, so that no value can be taken for a flag.
    fn flag(&mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        self.0.push(word);
        self
    }

    fn optional(&mut self, name: &str, value: Option<impl ToString>) -> &mut Self {
        if let Some(value) = value {
            self.flag(name, value.to_string());
        }
        self
    }

    fn switch(&mut self, name: &str, on: bool) -> &mut Self {
        if on {
            self.0.push(format!("--{name}").into());
        }
        self
    }

    fn model(&mut self, model: &Model) -> &mut Self {
        self.flag("model-path", &model.model_path)
            .flag("model-id", &model.model_id);
        self.optional(
            "revision",
            model.revision.as_ref().filter(|commit| !commit.is_empty()),
        )
    }
}

fn download_arguments(args: &Args) -> Vec<OsString> {
    let mut line = Line::new("download");
    line.optional("model-id", args.model_id.as_ref())
        .optional("revision", args.revision.as_ref());
    line.0
}

fn shard_arguments(args: &Args) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.optional("dtype", args.dtype.map(super::args::Dtype::name));
    line.optional("kv-memory", args.kv_memory.as_ref());
    line.optional("test-crash-token", args.test_crash_token);
    line.optional("test-fail-allocations", args.test_fail_allocations.as_ref());
    line.0
}

fn router_arguments(args: &Args, hostname: IpAddr, max_input_tokens: Option<u32>) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.flag("hostname", hostname.to_string())
        .flag("port", args.port.to_string());
    line.flag(
        "max-concurrent-requests",
        args.max_concurrent_requests.to_string(),
    );
    line.optional("max-queued-tokens", args.max_queued_tokens);
    line.optional("max-batch-size", args.max_batch_size);
    line.optional("request-timeout", args.request_timeout);
    line.flag("prefix-caching", args.prefix_caching.to_string());
    for origin in &args.cors_allow_origin {
        line.flag("cors-allow-origin", origin);
    }
    line.switch("debug-routes", args.debug_routes);
    line.switch("disable-grammar-support", args.disable_grammar_support);
    line.switch("enable-embeddings", args.enable_embeddings);
    line.flag("pooling", args.pooling.name());
    line.optional("max-input-tokens", max_input_tokens);
    line.optional("max-total-tokens", args.max_total_tokens);
    line.optional("max-batch-prefill-tokens", args.max_batch_prefill_tokens);
    line.optional("step-timeout", args.step_timeout);
    line.flag("recovery-timeout", args.recovery_timeout.to_string());
    line.flag("max-best-of", args.max_best_of.to_string());
    line.flag("max-stop-sequences", args.max_stop_sequences.to_string());
    line.flag("max-top-n-tokens", args.max_top_n_tokens.to_string());
    line.flag("watermark-gamma", args.watermark_gamma.to_string());
    line.flag("watermark-delta", args.watermark_delta.to_string());
    line.flag(
        "max-client-batch-size",
        args.max_client_batch_size.to_string(),
    );
    line.flag("payload-limit", args.payload_limit.to_string());
    line.flag("validation-workers", args.validation_workers.to_string());
    line.switch("json-output", args.json_output);
    line.0
}

/// As the router's variable has them.
fn api_keys(args: &Args) -> Result<Option<Secret>, LaunchError> {
    let keys: Vec<&str> = args.api_key.iter().map(|key| key.0.as_str()).collect();
    let can_be_sent = |key: &&str| key.bytes().all(|byte| byte.is_ascii_graphic());
    if !keys.iter().all(can_be_sent) {
        return Err(refused(
            "`--api-key` has other characters than visible ASCII: no client could send it",
        ));
    }
    Ok((!keys.is_empty()).then(|| Secret(keys.join(","))))
}

fn hostname(invocation: &Invocation, warnings: &mut Vec<String>) -> Result<IpAddr, LaunchError> {
    let text = &invocation.args.hostname;
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) if invocation.hostname_from_env => {
            warnings.push(format!(
                "the environment variable HOSTNAME is `{text}`, no IP address: listening on 0.0.0.0"
            ));
            Ok(IpAddr::from([0, 0, 0, 0]))
        }
        Err(_) => Err(refused(format!(
            "`--hostname` is `{text}`, no IP address: give one, such as 0.0.0.0 or 127.0.0.1"
        ))),
    }
}

/// Every stage of a pipeline has as many.
fn num_shards(args: &Args) -> Result<u32, LaunchError> {
    let (shards, stages) = (args.num_shard, args.pipeline_parallel_size);
    let processes = shards.saturating_mul(stages);
    if processes > MOST_SHARDS {
        return Err(refused(format!(
            "`--num-shard` is {shards} and `--pipeline-parallel-size` is {stages}: {processes} processes are more than {MOST_SHARDS}, lower one of them"
        )));
    }
    Ok(processes)
}

fn max_input_tokens(args: &Args) -> Result<Option<u32>, LaunchError> {
    match (args.max_input_tokens, args.max_input_length) {
        (Some(_), Some(_)) => Err(refused(
            "`--max-input-tokens` and `--max-input-length` are the same limit: give one of them",
        )),
        (new, old) => Ok(new.or(old)),
    }
}

/// Flags of TGI that are taken for its sake, each with the reason why nothing follows.
fn without_effect(args: &Args) -> impl Iterator<Item = String> {
    let joins = "prompts join every step in chunks, so none has to wait for others";
    let flags = [
        (
            args.max_batch_total_tokens.is_some(),
            "max-batch-total-tokens",
            "the KV memory decides how many tokens are held, set it with `--kv-memory`",
        ),
        (
            args.waiting_served_ratio.is_some(),
            "waiting-served-ratio",
            joins,
        ),
        (
            args.max_waiting_tokens.is_some(),
            "max-waiting-tokens",
            joins,
        ),
    ];
    let given = flags.into_iter().filter(|(given, ..)| *given);
    given.map(|(_, name, reason)| format!("`--{name}` has no effect: {reason}"))
}

/// Only its spelling: whether there is so much memory is for the shard to say. Before the download, which may take long.
fn check_kv_memory(args: &Args) -> Result<(), LaunchError> {
    let Some(text) = &args.kv_memory else {
        return Ok(());
    };
    kv_memory::check(text).map_err(|reason| refused(format!("`--kv-memory` is `{text}`: {reason}")))
}

fn check_limits(args: &Args, max_input_tokens: Option<u32>) -> Result<(), LaunchError> {
    let batch_total = args.max_batch_total_tokens;
    if let (Some(input), Some(total)) = (max_input_tokens, args.max_total_tokens)
        && input >= total
    {
        return Err(refused(format!(
            "`--max-input-tokens` is {input}: it must be below `--max-total-tokens`, which is {total}"
        )));
    }
    at_least(batch_total, "max-total-tokens", args.max_total_tokens)?;
    at_least(
        batch_total,
        "max-batch-prefill-tokens",
        args.max_batch_prefill_tokens,
    )
}

fn at_least(batch_total: Option<u32>, name: &str, least: Option<u32>) -> Result<(), LaunchError> {
    match (batch_total, least) {
        (Some(batch_total), Some(least)) if batch_total < least => Err(refused(format!(
            "`--max-batch-total-tokens` is {batch_total}: it must be at least `--{name}`, which is {least}"
        ))),
        _ => Ok(()),
    }
}

fn refused(message: impl Into<String>) -> LaunchError {
    LaunchError::Arguments(message.into())
}

#[cfg(test)]
mod tests;
