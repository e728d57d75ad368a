//! `ribbon-router`: HTTP, queue and scheduling of one model. This crate only reads its settings and wires the rooms.

mod answers;
mod args;
mod config;
mod conversation;
mod error;
mod launcher_link;
mod logs;
mod read_ahead;
mod serving;
mod startup;
mod wiring;

use std::{num::NonZero, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{args::Args, config::Config, error::RouterError};

// Gives memory back that idle threads freed (settings: `.cargo/config.toml`); mimalloc kept it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a validation worker waits for work before its thread ends: the next one would have to fill its cache of words anew.
const IDLE_WORKER: Duration = Duration::from_mins(10);

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = logs::start(&args) {
        eprintln!("error: {error}");
        return ExitCode::from(error.exit_code());
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Half of the cores, up to four: a second thread on a small machine costs more in wake-ups than it brings, one streams 200,000 tokens
/// a second, and the other cores are the shard's.
fn worker_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores / 2).clamp(1, 4)
}

fn run(args: &Args) -> Result<(), RouterError> {
    let config = Config::new(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .thread_keep_alive(IDLE_WORKER)
        .build()
        .map_err(|error| RouterError::Broken(format!("cannot start the runtime: {error}")))?;
    let end = runtime.block_on(wiring::run(config));
    // A tokenization that still runs has nobody left to answer.
    runtime.shutdown_background();
    end
}
