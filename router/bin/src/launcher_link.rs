//! The socket to the launcher: one JSON object a line. `launcher/link_messages.jsonl` binds both programs to one spelling.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use serde::{Deserialize, Serialize};
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

/// Launcher to router.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromLauncher {
    /// A generation of shards listens.
    Shards {
        /// Counts from 1.
        generation: u64,
        /// One address a rank.
        uris: Vec<String>,
        /// Seconds of each start-up phase so far.
        #[serde(default)]
        phases: BTreeMap<String, f64>,
    },
    /// A generation is gone.
    Lost {
        /// Which.
        generation: u64,
        /// Why, for logs.
        reason: String,
    },
    /// Say that the server stops; after the grace take nothing new, finish what runs, then say `drained`.
    Drain {
        /// How long late requests are still taken: whoever sends them needs time to notice.
        grace_seconds: f64,
    },
    /// Say `pong`.
    Ping,
    /// End now.
    Stop,
    /// There will be no more shards.
    GiveUp {
        /// For logs.
        reason: String,
    },
}

/// Router to launcher.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToLauncher {
    /// The first generation is warm and requests are served.
    Ready {
        /// The port in use.
        port: u16,
        /// Seconds of each of the router's own start-up phases.
        phases: BTreeMap<String, f64>,
    },
    /// A shard has to be replaced.
    Hung {
        /// Which.
        rank: u32,
        /// Of which generation.
        generation: u64,
        /// In which step.
        step: u64,
    },
    /// Whether suspects ran when a generation died.
    Suspects {
        /// The generation that died.
        generation: u64,
        /// They did.
        running: bool,
    },
    /// Nothing runs any more.
    Drained,
    /// The answer to `ping`.
    Pong,
}

/// What the launcher says.
#[derive(Debug)]
pub(crate) struct Inbox(Lines<BufReader<OwnedReadHalf>>);

impl Inbox {
    /// The next message; `None` when the launcher is gone. What is no message is logged and passed over.
    pub(crate) async fn next(&mut self) -> Option<FromLauncher> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_spell_messages_alike() {
        for line in include_str!("../../../launcher/link_messages.jsonl").lines() {
            let example: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            let message = example["message"].clone();
            let again = if example["to"] == "launcher" {
                serde_json::to_value(
                    serde_json::from_value::<ToLauncher>(message.clone()).expect(line),
                )
            } else {
                serde_json::to_value(
                    serde_json::from_value::<FromLauncher>(message.clone()).expect(line),
                )
            };
            assert_eq!(again.expect("JSON"), message);
        }
    }
}
