//! What launcher and router say to each other: one JSON object a line. `link_messages.jsonl` binds both programs to one spelling.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Launcher to router.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToRouter {
    /// A generation of shards listens.
    Shards {
        /// Counts from 1.
        generation: u64,
        /// One address a rank.
        uris: Vec<String>,
        /// Seconds of each start-up phase so far.
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromRouter {
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
    use super::*;

    #[test]
    fn both_ends_spell_messages_alike() {
        for line in include_str!("../link_messages.jsonl").lines() {
            let example: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            let message = example["message"].clone();
            let again = if example["to"] == "router" {
                serde_json::to_value(
                    serde_json::from_value::<ToRouter>(message.clone()).expect(line),
                )
            } else {
                serde_json::to_value(
                    serde_json::from_value::<FromRouter>(message.clone()).expect(line),
                )
            };
            assert_eq!(again.expect("JSON"), message);
        }
    }
}
