//! Child processes that cannot outlive the launcher. Knows no shard and no router.
//!
//! A child is the launcher's own program first: it asks the kernel to be killed with its parent, then becomes the program it
//! was started for. That needs no code between `fork` and `exec`, and the request survives `exec`. The kernel watches the
//! *thread* that started the child, so children are started from the main thread only, which runs the whole launcher.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::{Pid, getppid},
};
use tokio::{
    process::{Child, ChildStderr, Command},
    task::JoinSet,
    time::timeout,
};

use crate::{env::API_KEY, lines::Lines, logs::Record};

/// First argument of a launcher that is to become a child.
pub(crate) const BECOME_CHILD: &str = "__child";

/// Time that a dead child's last lines have to arrive; a grandchild may hold its pipes open.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(1);

/// Lines that are no log records, kept for the message about a death.
const TAIL_LINES: usize = 20;

/// A command that will run in a process group of its own, so that Ctrl-C reaches the launcher alone.
pub(crate) fn command(program: &Path, arguments: &[OsString]) -> Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg(BECOME_CHILD)
        .arg(std::process::id().to_string())
        .arg(program)
        .args(arguments)
        .env_remove(API_KEY)
        .process_group(0);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// Becomes the program named in `arguments` (the parent's pid, the program, its arguments). Returns only if that fails.
pub(crate) fn become_child(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let parent = arguments
        .next()
        .and_then(|pid| pid.to_str()?.parse().ok())
        .map(Pid::from_raw);
    let Some(program) = arguments.next() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program");
    };
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return error.into();
    }
    // The launcher may have died before the kernel was asked.
    if parent != Some(getppid()) {
        return io::Error::other("the launcher is gone");
    }
    std::process::Command::new(program).args(arguments).exec()
}

/// A child with everything it may have started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(Pid);

impl Group {
    /// Of a child that was started by [`command`] and not yet waited for.
    pub(crate) fn of(child: &Child) -> io::Result<Self> {
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the process ended at once"))?;
        Ok(Self(Pid::from_raw(pid as i32)))
    }

    /// Asks it to end.
    pub(crate) fn terminate(self) {
        self.send(Signal::SIGTERM);
    }

    /// Ends it, stopped or not.
    pub(crate) fn kill(self) {
        self.send(Signal::SIGKILL);
    }

    fn send(self, signal: Signal) {
        if let Err(error) = killpg(self.0, signal) {
            tracing::debug!("{signal} to process group {}: {error}", self.0);
        }
    }
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Exit code or signal.
    pub(crate) status: ExitStatus,
    /// Its last error record, or else its last lines that were no records.
    pub(crate) last_words: String,
}

impl Ending {
    /// For messages.
    pub(crate) fn describe(&self) -> String {
        if self.last_words.is_empty() {
            self.status.to_string()
        } else {
            format!("{}: {}", self.status, self.last_words)
        }
    }
}

/// Logs a child's stderr until it ends.
pub(crate) async fn wait(child: &mut Child, rank: u32) -> io::Result<Ending> {
    let mut log = JoinSet::new();
    if let Some(stderr) = child.stderr.take() {
        log.spawn(log_lines(stderr, rank));
    }
    let status = child.wait().await?;
    let last_words = match timeout(LAST_LINES, log.join_next()).await {
        Ok(Some(Ok(words))) => words,
        _ => String::new(),
    };
    Ok(Ending { status, last_words })
}

async fn log_lines(stderr: ChildStderr, rank: u32) -> String {
    let mut lines = Lines::new(stderr);
    let mut error = None;
    let mut tail = std::collections::VecDeque::with_capacity(TAIL_LINES);
    while let Some(line) = lines.next().await {
        let record = Record::parse(&line);
        record.log(rank);
        if record.is_error() {
            error = Some(record.message);
        } else if record.message == line {
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    error.unwrap_or_else(|| Vec::from(tail).join("\n"))
}

/// Pipes for a child whose every stream we hold.
pub(crate) fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}
