//! `ribbon-launcher`: downloads, starts, watches and stops the processes of one server. Touches no request.

mod args;
mod download;
mod env;
mod error;
mod flags_doc;
mod kv_memory;
mod lines;
mod logs;
mod plan;
mod process;
mod pulse;
mod restarts;
mod secret;
mod shard;
mod shards;
mod sockets;
mod supervisor;
mod tgi_flags;
mod webserver;

use std::{error::Error, ffi::OsString, process::ExitCode, time::Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{self, Receiver, Sender},
    task::JoinSet,
};
use tracing::{error, info, warn};

use crate::{
    args::Invocation,
    env::Programs,
    error::LaunchError,
    plan::LaunchPlan,
    shard::ShardRecipe,
    sockets::Sockets,
    supervisor::{Event, Supervisor},
};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    match arguments
        .nth(1)
        .as_deref()
        .and_then(std::ffi::OsStr::to_str)
    {
        Some(process::BECOME_CHILD) => {
            eprintln!(
                "cannot start a process: {}",
                process::become_child(arguments)
            );
            ExitCode::from(127)
        }
        Some(flags_doc::SUBCOMMAND) => {
            flags_doc::print();
            ExitCode::SUCCESS
        }
        _ => launch_from(std::env::args_os()),
    }
}

fn launch_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match args::parse(arguments) {
        Ok(invocation) => invocation,
        Err(error) => {
            let code = error.exit_code() as u8;
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match set_up(&invocation) {
        Ok(log_level) => run(&invocation, log_level),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn set_up(invocation: &Invocation) -> Result<&'static str, LaunchError> {
    logs::start(
        &env::log_level(),
        invocation.args.json_output,
        env::log_colours(),
    )
}

/// Everything runs on the main thread: children are bound to the life of the thread that starts them.
fn run(invocation: &Invocation, log_level: &'static str) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| LaunchError::Spawn {
            name: "the runtime",
            source,
        })
        .and_then(|runtime| runtime.block_on(launch(invocation, log_level)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error!("{}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

async fn launch(invocation: &Invocation, log_level: &'static str) -> Result<u8, LaunchError> {
    let launched = Instant::now();
    let (sender, mut events) = mpsc::channel(256);
    let mut signals = JoinSet::new();
    watch_signals(&sender, &mut signals)?;
    announce(invocation);
    let plan = LaunchPlan::new(invocation)?;
    for warning in &plan.warnings {
        warn!("{warning}");
    }
    let sockets = Sockets::new(plan.socket_prefix.as_deref())?;
    let programs = Programs::find()?;
    let model = tokio::select! {
        model = download::run(&plan, &programs) => model?,
        () = any(&mut events) => {
            info!("stopped while the model was being prepared");
            return Ok(0);
        }
    };
    info!(
        "model {} is in {} ({} ms)",
        model.model_id,
        model.model_path,
        launched.elapsed().as_millis()
    );
    let recipe = ShardRecipe {
        plan,
        programs,
        model,
        sockets,
        log_level,
    };
    Supervisor::start(recipe, (sender, events), launched)?
        .run()
        .await
}

fn announce(invocation: &Invocation) {
    if invocation.args.print_env {
        info!("{}", env::describe_machine());
    }
    info!("{:?}", invocation.args);
}

async fn any(events: &mut Receiver<Event>) {
    let _ = events.recv().await;
}

fn watch_signals(sender: &Sender<Event>, tasks: &mut JoinSet<()>) -> Result<(), LaunchError> {
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut stream = signal(kind).map_err(|source| LaunchError::Spawn {
            name: "the signal handler",
            source,
        })?;
        let sender = sender.clone();
        tasks.spawn(async move {
            while stream.recv().await.is_some() {
                let _ = sender.send(Event::Signal(kind.as_raw_value())).await;
            }
        });
    }
    Ok(())
}

fn chain(error: &LaunchError) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
