//! Runs `ribbon-server download`, which turns what the operator named into a local directory. Knows no Hub.

use std::time::Duration;

use tokio::{process::Child, time::interval};

use crate::{
    env::{self, Programs},
    error::LaunchError,
    lines::Lines,
    plan::{LaunchPlan, Model},
    process::{self, Ending},
};

const NAME: &str = "ribbon-server download";
/// How often a slow download says that it goes on.
const STILL_WORKING: Duration = Duration::from_secs(10);

/// Resolves the model. Dropping the future kills the process.
///
/// # Errors
/// [`LaunchError::Download`] with what the program said last.
pub(crate) async fn run(plan: &LaunchPlan, programs: &Programs) -> Result<Model, LaunchError> {
    let mut child = spawn(plan, programs)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(LaunchError::Spawn {
            name: NAME,
            source: std::io::Error::other("no stdout"),
        });
    };
    let (last_line, ending) = tokio::select! {
        both = async { tokio::join!(last_line(Lines::new(stdout)), process::wait(&mut child, 0)) } => both,
        never = remind() => match never {},
    };
    model(
        &last_line,
        ending.map_err(|source| LaunchError::Spawn { name: NAME, source })?,
    )
}

fn spawn(plan: &LaunchPlan, programs: &Programs) -> Result<Child, LaunchError> {
    let mut command = process::command(&programs.server, &plan.download);
    if let Some(cache) = &plan.hub_cache {
        command.env("HF_HUB_CACHE", cache);
    }
    if let Some(token) = env::legacy_hub_token() {
        command.env("HF_TOKEN", token);
    }
    // The Hub's client would tell who asks with which libraries.
    command.env("HF_HUB_DISABLE_TELEMETRY", "1");
    command.env_remove("LOG_LEVEL");
    process::piped(&mut command)
        .spawn()
        .map_err(|source| LaunchError::Spawn { name: NAME, source })
}

async fn last_line(mut lines: Lines<tokio::process::ChildStdout>) -> String {
    let mut last = String::new();
    while let Some(line) = lines.next().await {
        last = line;
    }
    last
}

async fn remind() -> std::convert::Infallible {
    let mut ticks = interval(STILL_WORKING);
    ticks.tick().await;
    let start = tokio::time::Instant::now();
    loop {
        ticks.tick().await;
        tracing::info!(
            "still preparing the model, {} s so far",
            start.elapsed().as_secs()
        );
    }
}

fn model(last_line: &str, ending: Ending) -> Result<Model, LaunchError> {
    if !ending.status.success() {
        return Err(LaunchError::Download {
            status: ending.status,
            message: ending.last_words,
        });
    }
    serde_json::from_str(last_line).map_err(|error| LaunchError::Download {
        status: ending.status,
        message: format!("its answer `{last_line}` is no model: {error}"),
    })
}
