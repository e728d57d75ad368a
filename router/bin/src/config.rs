//! The checked record that the router is wired from. Knows no process.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::HeaderValue;
use ribbon_core::Watermark;
use ribbon_http::{ApiKey, HttpSettings};
use ribbon_scheduler::SchedulerSettings;
use ribbon_shards::ShardSettings;

use crate::{
    args::{Args, Secret},
    error::RouterError,
};

/// Plans on their way at once: the shard works on one while the next waits beside it.
const PIPELINE_DEPTH: usize = 2;

/// Everything the router was told, in the words of its rooms.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// Directory with the tokenizer.
    pub(crate) model_path: PathBuf,
    /// For the HTTP side.
    pub(crate) http: HttpSettings,
    /// For the scheduler.
    pub(crate) scheduler: SchedulerSettings,
    /// For the shards.
    pub(crate) shards: ShardSettings,
}

impl Config {
    /// Checks what the flags alone can tell.
    ///
    /// # Errors
    /// [`RouterError::Arguments`] names the flag.
    pub(crate) fn new(args: &Args) -> Result<Self, RouterError> {
        Ok(Self {
            address: SocketAddr::new(args.hostname, args.port),
            model_path: args.model_path.clone(),
            http: http(args)?,
            scheduler: scheduler(args)?,
            shards: ShardSettings {
                max_batch_prefill_tokens: args.max_batch_prefill_tokens,
                max_total_tokens: args.max_total_tokens,
                max_concurrent_requests: args.max_concurrent_requests,
            },
        })
    }
}

fn http(args: &Args) -> Result<HttpSettings, RouterError> {
    Ok(HttpSettings {
        model_sha: args.revision.clone(),
        max_concurrent_requests: args.max_concurrent_requests,
        max_best_of: args.max_best_of,
        max_stop_sequences: args.max_stop_sequences,
        max_top_n_tokens: args.max_top_n_tokens,
        watermark: watermark(args)?,
        max_client_batch_size: args.max_client_batch_size,
        payload_limit: args.payload_limit,
        validation_workers: args.validation_workers as usize,
        build_sha: option_env!("RIBBON_BUILD_SHA").map(str::to_owned),
        docker_label: option_env!("RIBBON_DOCKER_LABEL").map(str::to_owned),
        request_timeout: args
            .request_timeout
            .map(|value| seconds("request-timeout", value))
            .transpose()?,
        api_keys: args.api_key.iter().map(api_key).collect::<Result<_, _>>()?,
        allowed_origins: allowed_origins(&args.cors_allow_origin)?,
        pooling: args.enable_embeddings.then_some(args.pooling),
        debug_routes: args.debug_routes,
        grammar_support: !args.disable_grammar_support,
        ..HttpSettings::new(args.model_id.clone())
    })
}

fn watermark(args: &Args) -> Result<Watermark, RouterError> {
    let (gamma, delta) = (args.watermark_gamma, args.watermark_delta);
    let message = if !(gamma > 0.0 && gamma <= 1.0) {
        format!("`--watermark-gamma` is {gamma}: give a share above 0 and at most 1")
    } else if !delta.is_finite() {
        format!("`--watermark-delta` is {delta}: give a finite number")
    } else {
        return Ok(Watermark { gamma, delta });
    };
    Err(RouterError::Arguments(message))
}

fn api_key(key: &Secret) -> Result<ApiKey, RouterError> {
    let unusable = "`--api-key` has a key that is empty or has other characters than visible ASCII";
    ApiKey::new(&*key.0).ok_or_else(|| RouterError::Arguments(unusable.to_owned()))
}

/// None where all are.
fn allowed_origins(origins: &[String]) -> Result<Vec<HeaderValue>, RouterError> {
    if origins.iter().any(|origin| origin == "*") {
        return Ok(Vec::new());
    }
    origins
        .iter()
        .map(|origin| allowed_origin(origin))
        .collect()
}

fn allowed_origin(origin: &str) -> Result<HeaderValue, RouterError> {
    let is_origin = origin == "null" || origin.contains("://");
    let value = HeaderValue::try_from(origin).ok().filter(|_| is_origin);
    value.ok_or_else(|| {
        RouterError::Arguments(format!(
            "`--cors-allow-origin` is `{origin}`: give an origin, such as https://example.org"
        ))
    })
}

fn scheduler(args: &Args) -> Result<SchedulerSettings, RouterError> {
    Ok(SchedulerSettings {
        max_concurrent_requests: args.max_concurrent_requests,
        max_queued_tokens: args.max_queued_tokens,
        max_batch_size: args.max_batch_size,
        max_input_tokens: args.max_input_tokens,
        step_timeout: args
            .step_timeout
            .map(|value| seconds("step-timeout", value))
            .transpose()?,
        recovery_timeout: seconds("recovery-timeout", args.recovery_timeout)?,
        prefix_caching: args.prefix_caching,
        pipeline_depth: PIPELINE_DEPTH,
    })
}

fn seconds(flag: &str, value: f64) -> Result<Duration, RouterError> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            RouterError::Arguments(format!("`--{flag}` is {value}: give seconds above 0"))
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn config(words: &[&str]) -> Result<Config, RouterError> {
        let needed = ["ribbon-router", "--model-path=/m", "--model-id=m"];
        Config::new(&Args::parse_from(needed.iter().chain(words)))
    }

    #[test]
    fn absent_limits_are_left_to_the_shard() {
        let config = config(&[]).expect("checked");
        assert_eq!(
            (
                config.shards.max_total_tokens,
                config.shards.max_batch_prefill_tokens
            ),
            (None, None)
        );
        assert_eq!(
            (
                config.scheduler.max_input_tokens,
                config.scheduler.step_timeout
            ),
            (None, None)
        );
    }

    #[test]
    fn a_watermark_has_a_green_share_and_a_finite_bonus() {
        let marked = config(&["--watermark-gamma=0.25", "--watermark-delta=-1.5"]);
        let expected = Watermark {
            gamma: 0.25,
            delta: -1.5,
        };
        assert_eq!(marked.expect("checked").http.watermark, expected);
        for bad in [
            "--watermark-gamma=0",
            "--watermark-gamma=1.5",
            "--watermark-gamma=nan",
            "--watermark-delta=inf",
        ] {
            let message = config(&[bad]).expect_err(bad).to_string();
            assert!(message.contains("--watermark-"), "{message}");
        }
    }

    #[test]
    fn seconds_may_be_broken_but_not_zero_or_negative() {
        let step = config(&["--step-timeout=0.5"])
            .expect("checked")
            .scheduler
            .step_timeout;
        assert_eq!(step, Some(Duration::from_millis(500)));
        for bad in [
            "--step-timeout=0",
            "--recovery-timeout=-1",
            "--recovery-timeout=nan",
        ] {
            let message = config(&[bad]).expect_err(bad).to_string();
            assert!(message.contains("-timeout"), "{message}");
        }
    }

    #[test]
    fn origins_and_keys_are_such_that_clients_can_send_them() {
        let origins = |words: &[&str]| config(words).map(|config| config.http.allowed_origins);
        let one = "--cors-allow-origin=https://a.example";
        assert_eq!(origins(&[one]).expect("one"), ["https://a.example"]);
        let all = origins(&[one, "--cors-allow-origin=*"]).expect("all");
        assert!(all.is_empty());
        origins(&["--cors-allow-origin=a.example"]).expect_err("no origin");
        let keys = config(&["--api-key=one,two"])
            .expect("two keys")
            .http
            .api_keys;
        assert_eq!(keys.len(), 2);
        let message = config(&["--api-key=one,, two"])
            .expect_err("bad")
            .to_string();
        assert!(message.contains("--api-key") && !message.contains("two"));
    }
}
