//! The router process and the socket we talk over. Knows no policy and no shard.

use std::{ffi::OsString, io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use ribbon_link::{ToLauncher, ToRouter};
use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Child,
    sync::mpsc::Sender,
    task::JoinSet,
    time::timeout,
};

use crate::{
    env::{API_KEY, HUB_TOKENS},
    error::LaunchError,
    lines::Lines,
    process::{self, Group},
    secret::Secret,
    supervisor::Event,
};

const NAME: &str = "ribbon-router";
/// A router that does not read its messages for so long is not told more.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// What the router tells, through its socket or by ending.
#[derive(Debug)]
pub(crate) enum RouterEvent {
    /// A message.
    Says(ToLauncher),
    /// The process, or its end of the socket, is gone.
    Ended {
        /// For messages.
        status: String,
        /// Exit code, if it exited.
        code: Option<i32>,
    },
}

/// A running router.
#[derive(Debug)]
pub(crate) struct Webserver {
    group: Group,
    link: OwnedWriteHalf,
}

impl Webserver {
    /// Starts the router. Its stdin is its end of our socket; its log goes where ours goes.
    ///
    /// # Errors
    /// [`LaunchError::Spawn`].
    pub(crate) fn start(
        program: &Path,
        arguments: &[OsString],
        api_keys: Option<&Secret>,
        events: Sender<Event>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Spawn { name: NAME, source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let child = spawn(program, arguments, api_keys, theirs.into()).map_err(failed)?;
        let group = Group::of(&child).map_err(failed)?;
        let (read, link) = split(ours).map_err(failed)?;
        tasks.spawn(watch(child, read, events));
        Ok(Self { group, link })
    }

    /// Says one thing; a router that is gone or deaf is not an error here, its end is an event.
    pub(crate) async fn say(&mut self, message: &ToRouter) {
        let Ok(mut line) = serde_json::to_vec(message) else {
            return;
        };
        line.push(b'\n');
        match timeout(WRITE_LIMIT, self.link.write_all(&line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("the router does not hear {message:?}: {error}"),
            Err(_) => tracing::warn!(
                "the router has not read its messages for {} s",
                WRITE_LIMIT.as_secs()
            ),
        }
    }

    /// Ends it.
    pub(crate) fn kill(&self) {
        self.group.kill();
    }
}

fn spawn(
    program: &Path,
    arguments: &[OsString],
    api_keys: Option<&Secret>,
    link: OwnedFd,
) -> io::Result<Child> {
    let mut command = process::command(program, arguments);
    for name in HUB_TOKENS {
        command.env_remove(name);
    }
    command.envs(api_keys.map(|keys| (API_KEY, &keys.0)));
    command.stdin(Stdio::from(link)).spawn()
}

fn split(stream: std::os::unix::net::UnixStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?.into_split())
}

async fn watch(mut child: Child, link: OwnedReadHalf, events: Sender<Event>) {
    let mut lines = Lines::new(link);
    while let Some(line) = lines.next().await {
        match serde_json::from_str(&line) {
            Ok(message) => {
                let _ = events.send(Event::Router(RouterEvent::Says(message))).await;
            }
            Err(error) => {
                tracing::warn!("the router said what the launcher does not know: {line} ({error})");
            }
        }
    }
    let ended = match timeout(process::LAST_LINES, child.wait()).await {
        Ok(Ok(status)) => RouterEvent::Ended {
            status: status.to_string(),
            code: status.code(),
        },
        _ => RouterEvent::Ended {
            status: "closed its link to the launcher".to_owned(),
            code: None,
        },
    };
    let _ = events.send(Event::Router(ended)).await;
    // A router that only closed its link is killed when the supervisor stops; until then it stays ours.
    let _ = child.wait().await;
}
