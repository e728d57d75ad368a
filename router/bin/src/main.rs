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

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, config::Config, error::RouterError};

// Gives memory back that idle threads freed (settings: `.cargo/config.toml`); mimalloc kept it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

fn run(args: &Args) -> Result<(), RouterError> {
    let config = Config::new(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RouterError::Broken(format!("cannot start the runtime: {error}")))?;
    let end = runtime.block_on(wiring::run(config));
    // A tokenization that still runs has nobody left to answer.
    runtime.shutdown_background();
    end
}
