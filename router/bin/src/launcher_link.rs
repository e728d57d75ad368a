//! The socket to the launcher.

use std::{io, os::fd::AsFd};

use ribbon_link::{ToLauncher, ToRouter};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

/// Messages that wait to be written; there are a few in the life of a router.
const WAITING: usize = 64;

/// What the launcher says.
#[derive(Debug)]
pub(crate) struct Inbox(Lines<BufReader<OwnedReadHalf>>);

impl Inbox {
    /// The next message; `None` when the launcher is gone. What is no message is logged and passed over.
    pub(crate) async fn next(&mut self) -> Option<ToRouter> {
        loop {
            let line = self.0.next_line().await.ok().flatten()?;
            match serde_json::from_str(&line) {
                Ok(message) => return Some(message),
                Err(error) => tracing::warn!(
                    "the launcher said what the router does not know: {line} ({error})"
                ),
            }
        }
    }
}

/// Where messages for the launcher go.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(mpsc::Sender<ToLauncher>);

impl Outbox {
    /// Says one thing. A launcher that is gone is noticed by the inbox.
    pub(crate) async fn say(&self, message: ToLauncher) {
        self.0.send(message).await.ok();
    }
}

/// Carries messages to the socket; to be run on a task of its own.
#[derive(Debug)]
pub(crate) struct Writer {
    messages: mpsc::Receiver<ToLauncher>,
    socket: OwnedWriteHalf,
}

impl Writer {
    /// Ends when every outbox is gone, or the launcher.
    pub(crate) async fn run(mut self) {
        while let Some(message) = self.messages.recv().await {
            let Ok(mut line) = serde_json::to_vec(&message) else {
                continue;
            };
            line.push(b'\n');
            if self.socket.write_all(&line).await.is_err() {
                return;
            }
        }
    }
}

/// Takes the launcher's socket from standard input.
///
/// # Errors
/// Standard input is no socket.
pub(crate) fn open() -> io::Result<(Inbox, Outbox, Writer)> {
    let socket = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr()?;
    socket.set_nonblocking(true)?;
    let (read, socket) = UnixStream::from_std(socket)?.into_split();
    let (sender, messages) = mpsc::channel(WAITING);
    Ok((
        Inbox(BufReader::new(read).lines()),
        Outbox(sender),
        Writer { messages, socket },
    ))
}
