//! What launcher and router say to each other: one JSON object a line. Knows words; not processes, not sockets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Launcher to router.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRouter {
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
    /// There will be no more shards: end what waits with an error, then end.
    GiveUp {
        /// For logs.
        reason: String,
    },
}

/// Router to launcher.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToLauncher {
    /// The first generation is warm and requests are served.
    Ready {
        /// The port in use.
        port: u16,
        /// Seconds of each of the router's own start-up phases.
        #[serde(default)]
        phases: BTreeMap<String, f64>,
    },
    /// A step is over its deadline.
    Hung {
        /// Which shard.
        rank: u32,
        /// Of which generation.
        generation: u64,
        /// The step.
        step: u64,
    },
    /// Whether requests suspected of killing shards ran when a generation died: such a death is explained.
    Suspects {
        /// The generation that died.
        generation: u64,
        /// Suspects were running.
        running: bool,
    },
    /// Nothing runs any more.
    Drained,
    /// The answer to `ping`.
    Pong,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;

    fn again<T: DeserializeOwned + Serialize>(message: &Value) -> Value {
        let read: T = serde_json::from_value(message.clone()).expect("a message");
        serde_json::to_value(read).expect("JSON")
    }

    #[test]
    fn messages_are_spelled_as_ever() {
        for line in include_str!("../messages.jsonl").lines() {
            let example: Value = serde_json::from_str(line).expect("a JSON line");
            let message = &example["message"];
            let again = match example["to"].as_str() {
                Some("router") => again::<ToRouter>(message),
                _ => again::<ToLauncher>(message),
            };
            assert_eq!(again, *message);
        }
    }
}
