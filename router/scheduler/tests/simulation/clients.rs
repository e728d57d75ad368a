//! The simulated clients: what each asked for, what it must get, what it got so far.

use std::{collections::HashMap, sync::Arc};

use ribbon_core::{FinishReason, Sampling, SequenceRequest, StreamError, TokenEvent};
use ribbon_scheduler::SequenceId;

use super::model::{FAILS_STEPS, History, KILLS_SHARDS, Rng, STOP};

#[derive(Debug)]
pub(crate) struct Client {
    history: History,
    left: u32,
    /// The stop token ends it.
    stops: bool,
    /// Failures it was in flight at.
    pub(crate) failures: u32,
    pub(crate) submitted_at_step: u64,
    got_a_token: bool,
}

/// How many ended how.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) finished: u64,
    pub(crate) cancelled: u64,
    pub(crate) given_up: u64,
    pub(crate) timed_out: u64,
    pub(crate) tokens: u64,
    pub(crate) longest_wait_steps: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) waiting: HashMap<SequenceId, Client>,
    pub(crate) tally: Tally,
}

impl Clients {
    pub(crate) fn add(&mut self, id: SequenceId, request: &SequenceRequest, step: u64) {
        let client = Client {
            history: History::of(&request.prompt),
            left: request.max_new_tokens,
            stops: !request.stop_token_ids.is_empty(),
            failures: 0,
            submitted_at_step: step,
            got_a_token: false,
        };
        assert!(
            self.waiting.insert(id, client).is_none(),
            "an id was used twice"
        );
    }

    /// A token came: it must be the next one, of a sequence that has not ended.
    pub(crate) fn token(&mut self, id: SequenceId, event: &TokenEvent, step: u64) {
        let client = self.waiting.get_mut(&id).expect("a token after the end");
        assert_eq!(
            event.token.id,
            client.history.next(),
            "a gap, a repeat, or another's token"
        );
        client.history.push(event.token.id);
        client.left -= 1;
        self.tally.tokens += 1;
        if !std::mem::replace(&mut client.got_a_token, true) {
            let waited = step - client.submitted_at_step;
            self.tally.longest_wait_steps = self.tally.longest_wait_steps.max(waited);
        }
        let expected = match (event.token.id, client.left) {
            (STOP, _) if client.stops => Some(FinishReason::EosToken),
            (_, 0) => Some(FinishReason::Length),
            _ => None,
        };
        assert_eq!(event.finish, expected);
        if expected.is_some() {
            self.waiting.remove(&id);
            self.tally.finished += 1;
        }
    }

    /// A stream broke off: only with a reason that explains it.
    pub(crate) fn failed(&mut self, id: SequenceId, error: &StreamError, outage_was_long: bool) {
        let client = self.waiting.remove(&id).expect("an end after the end");
        match error {
            StreamError::Generation(_) => {
                assert!(
                    client.failures >= 2,
                    "given up after {} failures",
                    client.failures
                );
                self.tally.given_up += 1;
            }
            StreamError::RecoveryTimeout(_) => {
                assert!(outage_was_long, "timed out while a shard was live");
                self.tally.timed_out += 1;
            }
            StreamError::Expired => panic!("nobody was in a hurry"),
            StreamError::ShuttingDown => panic!("nobody stopped the server"),
        }
    }

    pub(crate) fn cancel(&mut self, id: SequenceId) {
        self.waiting.remove(&id).expect("cancels what runs");
        self.tally.cancelled += 1;
    }

    /// One of those that wait, any of them.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Option<SequenceId> {
        let mut ids: Vec<SequenceId> = self.waiting.keys().copied().collect();
        ids.sort();
        let index = rng.next() as usize % ids.len().max(1);
        ids.get(index).copied()
    }
}

pub(crate) fn request(rng: &mut Rng, poison_per_mille: u64) -> SequenceRequest {
    let long = rng.chance(100);
    let length = if long {
        rng.between(50, 180)
    } else {
        rng.between(1, 30)
    };
    let first = match rng.chance(poison_per_mille) {
        true if rng.chance(500) => FAILS_STEPS,
        true => KILLS_SHARDS,
        false => 10,
    };
    let rest = (1..length).map(|_| rng.between(10, 69) as u32);
    let prompt: Vec<u32> = std::iter::once(first).chain(rest).collect();
    SequenceRequest {
        prompt: prompt.into(),
        max_new_tokens: rng.between(1, 60) as u32,
        sampling: Arc::new(Sampling::default()),
        stop_token_ids: if rng.chance(800) {
            Arc::from([STOP])
        } else {
            Arc::from([])
        },
        min_tokens: 0,
        traceparent: None,
        parameter_hash: 0,
        cache_salt: None,
        tenant: None,
        priority: 0,
        deadline: None,
    }
}

/// A request for forty tokens, whatever they are.
pub(crate) fn plain(client: u64, first: u32) -> SequenceRequest {
    SequenceRequest {
        prompt: vec![first, 10 + client as u32, 11, 12, 13, 14, 15].into(),
        max_new_tokens: 40,
        sampling: Arc::new(Sampling::default()),
        stop_token_ids: Arc::from([]),
        min_tokens: 0,
        traceparent: None,
        parameter_hash: client,
        cache_salt: None,
        tenant: None,
        priority: 0,
        deadline: None,
    }
}
