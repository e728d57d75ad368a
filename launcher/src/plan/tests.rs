use clap::CommandFactory;

use super::*;
use crate::args;

fn invocation(words: &[&str]) -> Invocation {
    args::parse(
        std::iter::once("ribbon-launcher")
            .chain(words.iter().copied())
            .map(Into::into),
    )
    .expect("parses")
}

fn plan(words: &[&str]) -> LaunchPlan {
    LaunchPlan::new(&invocation(words)).expect("a plan")
}

fn refusal(words: &[&str]) -> LaunchError {
    LaunchPlan::new(&invocation(words)).expect_err(&format!("{words:?} is refused"))
}

fn model() -> Model {
    Model {
        model_path: "/models/m".to_owned(),
        model_id: "org/m".to_owned(),
        revision: Some("abc".to_owned()),
    }
}

fn text(words: Vec<OsString>) -> Vec<String> {
    words
        .into_iter()
        .map(|word| word.into_string().expect("text"))
        .collect()
}

/// Words of a command line, the process they are for, and one of its arguments.
const FLAGS: &[(&[&str], &str, &str)] = &[
    (&["--model-id", "org/m"], "download", "--model-id=org/m"),
    (
        &["--model-id", "org/m", "--revision", "refs/pr/3"],
        "download",
        "--revision=refs/pr/3",
    ),
    (&["--dtype", "bfloat16"], "shard", "--dtype=bfloat16"),
    (&["--kv-memory", "256MiB"], "shard", "--kv-memory=256MiB"),
    (
        &["--step-log", "steps.jsonl"],
        "shard",
        "--step-log=steps.jsonl",
    ),
    (
        &["--test-crash-token", "7"],
        "shard",
        "--test-crash-token=7",
    ),
    (
        &["--test-fail-allocations", "0.05,7"],
        "shard",
        "--test-fail-allocations=0.05,7",
    ),
    (
        &["--hostname", "127.0.0.1"],
        "router",
        "--hostname=127.0.0.1",
    ),
    (&["--hostname", "::1"], "router", "--hostname=::1"),
    (&["--port", "0"], "router", "--port=0"),
    (
        &["--max-concurrent-requests", "9"],
        "router",
        "--max-concurrent-requests=9",
    ),
    (
        &["--max-input-tokens", "9"],
        "router",
        "--max-input-tokens=9",
    ),
    (
        &["--max-input-length", "9"],
        "router",
        "--max-input-tokens=9",
    ),
    (
        &["--max-total-tokens", "9"],
        "router",
        "--max-total-tokens=9",
    ),
    (
        &["--max-batch-prefill-tokens", "9"],
        "router",
        "--max-batch-prefill-tokens=9",
    ),
    (&["--step-timeout", "0.5"], "router", "--step-timeout=0.5"),
    (
        &["--recovery-timeout", "9"],
        "router",
        "--recovery-timeout=9",
    ),
    (&["--max-best-of", "9"], "router", "--max-best-of=9"),
    (
        &["--max-stop-sequences", "9"],
        "router",
        "--max-stop-sequences=9",
    ),
    (
        &["--max-top-n-tokens", "9"],
        "router",
        "--max-top-n-tokens=9",
    ),
    (
        &["--watermark-gamma", "0.25"],
        "router",
        "--watermark-gamma=0.25",
    ),
    (
        &["--watermark-delta", "-1.5"],
        "router",
        "--watermark-delta=-1.5",
    ),
    (
        &["--max-client-batch-size", "9"],
        "router",
        "--max-client-batch-size=9",
    ),
    (&["--payload-limit", "9"], "router", "--payload-limit=9"),
    (
        &["--validation-workers", "9"],
        "router",
        "--validation-workers=9",
    ),
    (&["--json-output"], "router", "--json-output"),
    (
        &["--max-queued-tokens", "9"],
        "router",
        "--max-queued-tokens=9",
    ),
    (&["--max-batch-size", "9"], "router", "--max-batch-size=9"),
    (
        &["--request-timeout", "0.5"],
        "router",
        "--request-timeout=0.5",
    ),
    (
        &["--prefix-caching", "0"],
        "router",
        "--prefix-caching=false",
    ),
    (&[], "router", "--prefix-caching=true"),
    (&["--debug-routes"], "router", "--debug-routes"),
    (
        &["--disable-grammar-support"],
        "router",
        "--disable-grammar-support",
    ),
    (&["--enable-embeddings"], "router", "--enable-embeddings"),
    (&["--pooling", "last"], "router", "--pooling=last"),
    (&[], "router", "--pooling=mean"),
    (
        &["--cors-allow-origin", "https://a.example"],
        "router",
        "--cors-allow-origin=https://a.example",
    ),
];

#[test]
fn each_flag_reaches_its_process() {
    for (words, process, expected) in FLAGS {
        let plan = plan(words);
        let arguments = match *process {
            "download" => plan.download.clone(),
            "shard" => plan.shard_arguments(&model(), &seat(0, None)),
            _ => plan.router_arguments(&model()),
        };
        assert!(
            text(arguments.clone()).contains(&(*expected).to_owned()),
            "{words:?}: {arguments:?}"
        );
    }
}

/// What a plan says.
type Says = fn(&LaunchPlan) -> bool;

/// Words of a command line that the launcher itself obeys, and what the plan says then.
const OWN: &[(&[&str], Says)] = &[
    (&["--huggingface-hub-cache", "/cache"], |plan| {
        plan.hub_cache.as_deref() == Some("/cache")
    }),
    (&["--num-shard", "2"], |plan| plan.num_shards == 2),
    (
        &["--num-shard", "2", "--pipeline-parallel-size", "3"],
        |plan| plan.num_shards == 6,
    ),
    (&["--startup-timeout", "9.5"], |plan| {
        plan.startup_timeout == Duration::from_millis(9500)
    }),
    (&["--graceful-termination-timeout", "9"], |plan| {
        plan.graceful_timeout == Duration::from_secs(9)
    }),
    (&["--drain-grace", "0.5"], |plan| {
        plan.drain_grace == Duration::from_millis(500)
    }),
    (&["--router-timeout", "9"], |plan| {
        plan.router_timeout == Duration::from_secs(9)
    }),
    (&["--shard-uds-path", "/run/s"], |plan| {
        plan.socket_prefix.as_deref() == Some("/run/s")
    }),
    (&["--api-key", "one"], |plan| {
        plan.api_keys == Some(Secret("one".to_owned()))
    }),
    (&["--max-batch-total-tokens", "9000"], |plan| {
        plan.warnings.len() == 1
    }),
    (&["--waiting-served-ratio", "1.2"], |plan| {
        plan.warnings.len() == 1
    }),
    (&["--max-waiting-tokens", "20"], |plan| {
        plan.warnings.len() == 1
    }),
];

/// Flags that change no plan, and why.
const WITHOUT_PLAN: &[(&str, &str)] = &[
    ("usage-stats", "nothing is reported, whatever it says"),
    ("env", "`main` prints what the machine is"),
    ("help", "clap's"),
    ("version", "clap's"),
];

#[test]
fn each_flag_of_the_launcher_changes_its_plan() {
    let unchanged = plan(&[]);
    for (number, (words, holds)) in OWN.iter().enumerate() {
        assert!(holds(&plan(words)), "{words:?}");
        assert!(!holds(&unchanged), "row {number} holds without its flag");
    }
}

#[test]
fn no_flag_is_without_a_row() {
    let passed_on = FLAGS.iter().flat_map(|(words, ..)| words.iter());
    let obeyed = OWN.iter().flat_map(|(words, _)| words.iter());
    let proven: Vec<&str> = passed_on
        .chain(obeyed)
        .filter_map(|word| word.strip_prefix("--"))
        .chain(WITHOUT_PLAN.iter().map(|(name, _)| *name))
        .collect();
    let mut command = Args::command();
    command.build();
    let flags: Vec<&str> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .collect();
    assert!(flags.len() > WITHOUT_PLAN.len() + OWN.len(), "{flags:?}");
    for flag in flags {
        assert!(proven.contains(&flag), "--{flag} has no row");
    }
}

fn seat(rank: u32, meeting_point: Option<&Path>) -> Seat<'_> {
    Seat {
        rank,
        generation: 3,
        socket: Path::new("/run/s-0-3"),
        meeting_point,
    }
}

#[test]
fn one_of_several_shards_is_told_who_it_is_and_where_the_others_are() {
    let plan = plan(&["--num-shard", "2", "--step-log", "steps"]);
    assert_eq!(plan.num_shards, 2);
    let arguments = |rank| text(plan.shard_arguments(&model(), &seat(rank, Some(Path::new("/m")))));
    for rank in [0, 1] {
        for word in [
            format!("--rank={rank}"),
            "--world-size=2".to_owned(),
            "--meeting-point=/m".to_owned(),
        ] {
            assert!(arguments(rank).contains(&word), "{word}");
        }
    }
    // Two writers would spoil it.
    let logs = |rank| arguments(rank).contains(&"--step-log=steps".to_owned());
    assert_eq!((logs(0), logs(1)), (true, false));
}

#[test]
fn every_rank_is_told_how_many_stages_there_are() {
    let plan = plan(&["--pipeline-parallel-size", "2"]);
    for rank in [0, 1] {
        let arguments = text(plan.shard_arguments(&model(), &seat(rank, Some(Path::new("/m")))));
        for word in ["--world-size=2", "--pipeline-parallel-size=2"] {
            assert!(arguments.contains(&word.to_owned()), "{arguments:?}");
        }
    }
}

#[test]
fn keys_are_on_no_command_line_and_in_no_log() {
    let words = ["--api-key", "one,two", "--api-key", "three"];
    let plan = plan(&words);
    assert_eq!(plan.api_keys, Some(Secret("one,two,three".to_owned())));
    let router = text(plan.router_arguments(&model()));
    assert!(!router.concat().contains("two"), "{router:?}");
    let shown = format!("{:?} {plan:?}", invocation(&words));
    assert!(!shown.contains("two"), "{shown}");
    let message = refusal(&["--api-key", "geheim ä"]).to_string();
    assert!(message.contains("--api-key") && !message.contains("geheim"));
}

#[test]
fn a_shard_is_told_who_it_is() {
    let arguments = text(plan(&[]).shard_arguments(&model(), &seat(0, None)));
    assert_eq!(
        arguments,
        [
            "serve",
            "--model-path=/models/m",
            "--model-id=org/m",
            "--revision=abc",
            "--uds-path=/run/s-0-3",
            "--generation=3",
            "--rank=0",
            "--world-size=1"
        ]
    );
}

#[test]
fn without_flags_nothing_is_decided_for_the_shard_or_the_model() {
    assert_eq!(text(plan(&[]).download), ["download"]);
    let router = text(plan(&[]).router_arguments(&model()));
    for absent in [
        "--max-input-tokens",
        "--max-total-tokens",
        "--max-batch-prefill-tokens",
        "--step-timeout",
        "--json-output",
    ] {
        assert!(
            !router.iter().any(|word| word.starts_with(absent)),
            "{absent}"
        );
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused_by_name() {
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--max-input-tokens", "5", "--max-input-length", "5"],
            &["--max-input-tokens", "--max-input-length"],
        ),
        (
            &["--max-input-tokens", "8", "--max-total-tokens", "8"],
            &["--max-input-tokens", "--max-total-tokens", "8"],
        ),
        (
            &["--max-batch-total-tokens", "7", "--max-total-tokens", "8"],
            &["--max-batch-total-tokens", "--max-total-tokens"],
        ),
        (
            &[
                "--max-batch-total-tokens",
                "7",
                "--max-batch-prefill-tokens",
                "8",
            ],
            &["--max-batch-total-tokens", "--max-batch-prefill-tokens"],
        ),
        (&["--hostname", "localhost"], &["--hostname", "localhost"]),
        (
            &["--num-shard", "128", "--pipeline-parallel-size", "3"],
            &["--num-shard", "--pipeline-parallel-size", "384", "256"],
        ),
    ];
    for (words, expected) in cases {
        let error = refusal(words);
        assert_eq!(error.exit_code(), 2);
        for part in *expected {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[test]
fn a_container_name_in_the_environment_is_replaced_with_a_warning() {
    let mut from_env = invocation(&["--hostname", "a1b2c3"]);
    from_env.hostname_from_env = true;
    let plan = LaunchPlan::new(&from_env).expect("a plan");
    assert_eq!(plan.hostname, IpAddr::from([0, 0, 0, 0]));
    assert!(plan.warnings[0].contains("a1b2c3"), "{:?}", plan.warnings);
}

#[test]
fn a_limit_without_effect_is_said_to_have_none() {
    assert!(plan(&["--max-batch-total-tokens", "9000"]).warnings[0].contains("--kv-memory"));
    assert!(plan(&[]).warnings.is_empty());
}

#[test]
fn a_bad_kv_memory_is_refused_before_anything_starts() {
    let message = refusal(&["--kv-memory", "much"]).to_string();
    assert!(
        message.contains("`--kv-memory` is `much`") && message.contains("256MiB"),
        "{message}"
    );
}

#[test]
fn flags_of_tgi_without_effect_are_said_to_be() {
    let flags: [(&str, &str); 3] = [
        ("--waiting-served-ratio", "1.2"),
        ("--max-waiting-tokens", "20"),
        ("--max-batch-total-tokens", "9000"),
    ];
    for (flag, value) in flags {
        let [warning] = &plan(&[flag, value]).warnings[..] else {
            panic!("{flag}: one warning");
        };
        assert!(warning.contains(flag) && warning.contains("no effect"));
    }
    assert!(plan(&[]).warnings.is_empty());
}
