use clap::error::ErrorKind;

use super::*;
use crate::tgi_flags::UNBUILT;

/// Every flag of TGI's launcher, help and version left out.
const TGI_FLAGS: &[&str] = &[
    "model-id",
    "revision",
    "validation-workers",
    "sharded",
    "num-shard",
    "quantize",
    "speculate",
    "dtype",
    "kv-cache-dtype",
    "trust-remote-code",
    "max-concurrent-requests",
    "max-best-of",
    "max-stop-sequences",
    "max-top-n-tokens",
    "max-input-tokens",
    "max-input-length",
    "max-total-tokens",
    "waiting-served-ratio",
    "max-batch-prefill-tokens",
    "max-batch-total-tokens",
    "max-waiting-tokens",
    "max-batch-size",
    "cuda-graphs",
    "hostname",
    "port",
    "prometheus-port",
    "shard-uds-path",
    "master-addr",
    "master-port",
    "huggingface-hub-cache",
    "weights-cache-override",
    "disable-custom-kernels",
    "cuda-memory-fraction",
    "rope-scaling",
    "rope-factor",
    "json-output",
    "otlp-endpoint",
    "otlp-service-name",
    "cors-allow-origin",
    "api-key",
    "watermark-gamma",
    "watermark-delta",
    "ngrok",
    "ngrok-authtoken",
    "ngrok-edge",
    "tokenizer-config-path",
    "disable-grammar-support",
    "env",
    "max-client-batch-size",
    "lora-adapters",
    "usage-stats",
    "payload-limit",
    "enable-prefill-logprobs",
    "graceful-termination-timeout",
];

fn parse_words(words: &[&str]) -> Result<Invocation, clap::Error> {
    parse(
        std::iter::once("ribbon-launcher")
            .chain(words.iter().copied())
            .map(Into::into),
    )
}

fn refusal(words: &[&str]) -> clap::Error {
    parse_words(words).expect_err(&format!("{words:?} is refused"))
}

#[test]
fn the_command_is_consistent() {
    command().debug_assert();
}

#[test]
fn every_flag_of_tgi_is_ours_or_refused_by_name() {
    let command = command();
    for name in TGI_FLAGS {
        let known = command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(name));
        assert!(
            known,
            "`--{name}` of TGI is neither in args.rs nor in tgi_flags.rs"
        );
    }
}

#[test]
fn every_refused_flag_is_one_of_tgi() {
    for flag in UNBUILT {
        assert!(TGI_FLAGS.contains(&flag.name), "{}", flag.name);
    }
}

#[test]
fn unbuilt_flags_are_refused_by_name_with_exit_code_2() {
    for flag in UNBUILT {
        if flag.name.starts_with("disable-") || flag.name == "enable-prefill-logprobs" {
            continue;
        }
        let long = format!("--{}", flag.name);
        let words: &[&str] = if flag.takes_value {
            &[&long, "secret-value"]
        } else {
            &[&long]
        };
        let error = refusal(words);
        let message = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(
            message.contains(&format!("`{long}` is not built yet")),
            "{message}"
        );
        assert!(!message.contains("secret-value"), "{message}");
    }
}

#[test]
fn an_unbuilt_flag_that_asks_for_nothing_is_fine() {
    for words in [
        &["--sharded", "false"][..],
        &["--speculate", "0"],
        &["--cuda-graphs", "0"],
        &["--disable-custom-kernels"],
        &["--enable-prefill-logprobs"],
    ] {
        parse_words(words).expect("asks for nothing");
    }
}

#[test]
fn all_refused_flags_are_named_at_once() {
    let message = refusal(&["--quantize", "awq", "--ngrok"]).to_string();
    assert!(
        message.contains("--quantize") && message.contains("--ngrok"),
        "{message}"
    );
}

#[test]
fn an_unknown_flag_is_answered_with_the_nearest_name() {
    for (typed, nearest) in [
        ("--max-total-token", "--max-total-tokens"),
        ("--num_shard", "--num-shard"),
        ("--quantise", "--quantize"),
        ("--prot", "--port"),
    ] {
        let error = refusal(&[typed, "1"]);
        assert_eq!(
            (error.kind(), error.exit_code()),
            (ErrorKind::UnknownArgument, 2)
        );
        assert!(error.to_string().contains(nearest), "{error}");
    }
}

#[test]
fn defaults_are_those_of_tgi() {
    let args = parse_words(&[]).expect("no flag is needed").args;
    assert_eq!(
        (
            args.port,
            args.hostname.as_str(),
            args.max_concurrent_requests
        ),
        (3000, "0.0.0.0", 128)
    );
    assert_eq!(
        (
            args.max_best_of,
            args.max_stop_sequences,
            args.max_top_n_tokens
        ),
        (2, 4, 5)
    );
    let share_and_bonus = (args.watermark_gamma, args.watermark_delta);
    assert_eq!(share_and_bonus, (0.5, 2.0));
    assert_eq!(
        (
            args.max_client_batch_size,
            args.payload_limit,
            args.validation_workers
        ),
        (4, 2_000_000, 2)
    );
    assert_eq!(
        (args.graceful_termination_timeout, args.recovery_timeout),
        (90, 120.0)
    );
}

#[test]
fn short_flags_are_those_of_tgi() {
    let args = parse_words(&["-p", "81", "-g", "7", "-e"])
        .expect("known")
        .args;
    assert_eq!(
        (args.port, args.graceful_termination_timeout, args.print_env),
        (81, 7, true)
    );
}

#[test]
fn values_out_of_range_name_the_flag() {
    for words in [
        ["--port", "65536"],
        ["--port", ""],
        ["--num-shard", "0"],
        ["--pipeline-parallel-size", "0"],
        ["--pipeline-parallel-size", "257"],
        ["--validation-workers", "0"],
        ["--max-concurrent-requests", "0"],
        ["--step-timeout", "0"],
        ["--step-timeout", "nan"],
        ["--recovery-timeout", "inf"],
        ["--dtype", "int8"],
        ["--dtype", ""],
        ["--model-id", ""],
        ["--max-input-tokens", "-1"],
        ["--usage-stats", "maybe"],
    ] {
        let error = refusal(&words);
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(words[0]), "{error}");
    }
}

#[test]
fn switches_take_no_value() {
    refusal(&["--json-output", "true"]);
    refusal(&["--json-output=true"]);
}

#[test]
fn help_and_version_are_no_mistakes() {
    assert_eq!(refusal(&["--help"]).exit_code(), 0);
    assert_eq!(refusal(&["-V"]).exit_code(), 0);
}
