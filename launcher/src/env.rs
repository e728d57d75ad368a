//! Everything the launcher reads from its surroundings besides flags: log settings, program paths, secrets to withhold.
//! The only file here that reads environment variables.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the launcher's one place that reads the environment"
)]

use std::{
    env,
    ffi::OsString,
    io::IsTerminal,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::error::LaunchError;

/// Variables that may hold a Hub token: only the download needs one.
pub(crate) const HUB_TOKENS: &[&str] = &["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"];

/// The variable with the keys of the API: only the router needs them, and gets them from the flags.
pub(crate) const API_KEY: &str = "API_KEY";

/// The programs a launch starts.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Download and shards.
    pub(crate) server: PathBuf,
    /// HTTP, queue, scheduling.
    pub(crate) router: PathBuf,
}

impl Programs {
    /// Looks next to the launcher's own executable, then in PATH.
    ///
    /// # Errors
    /// [`LaunchError::MissingProgram`].
    pub(crate) fn find() -> Result<Self, LaunchError> {
        Ok(Self {
            server: find("ribbon-server")?,
            router: find("ribbon-router")?,
        })
    }
}

fn find(name: &'static str) -> Result<PathBuf, LaunchError> {
    let beside = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf))
        .unwrap_or_default();
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside.clone())
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
        .ok_or(LaunchError::MissingProgram { name, beside })
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// `LOG_LEVEL`: a level, or a filter such as `warn,ribbon_launcher=debug`.
pub(crate) fn log_level() -> String {
    env::var("LOG_LEVEL")
        .ok()
        .filter(|level| !level.is_empty())
        .unwrap_or_else(|| "info".to_owned())
}

/// Colours: on a terminal, unless `LOG_COLORIZE` says 0 or false; 1 or true asks for them everywhere.
pub(crate) fn log_colours() -> bool {
    match env::var("LOG_COLORIZE").ok().as_deref() {
        Some("0" | "false") => false,
        Some("1" | "true") => true,
        _ => std::io::stdout().is_terminal(),
    }
}

/// The Hub token under its oldest name, when the current name is not set.
pub(crate) fn legacy_hub_token() -> Option<OsString> {
    if env::var_os("HF_TOKEN").is_some() {
        None
    } else {
        env::var_os("HF_API_TOKEN")
    }
}

/// What this machine is, for `--env`. Holds no variable's value.
pub(crate) fn describe_machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown")
        .trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "ribbon {} on {} {}, kernel {}, {cores} cores of {model}",
        env!("CARGO_PKG_VERSION"),
        env::consts::OS,
        env::consts::ARCH,
        kernel.trim(),
    )
}
