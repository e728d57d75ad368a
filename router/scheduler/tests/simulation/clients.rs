//! The simulated clients: what each asked for, what it must get, what it got so far.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ribbon_core::{
    FinishReason, Pooling, Sampling, SequenceRequest, StreamError, TokenEvent, TokenScore,
};
use ribbon_scheduler::SequenceId;

use super::model::{FAILS_STEPS, History, KILLS_SHARDS, Rng, STOP, score};

const TENANTS: [&str; 3] = ["one", "two", "three"];

#[derive(Debug)]
pub(crate) struct Client {
    history: History,
    tokens: Vec<u32>,
    prompt: u32,
    seed: u64,
    deadline: Option<Instant>,
    left: u32,
    /// The stop token ends it.
    stops: bool,
    /// What comes with its first token.
    scores: Option<Box<[TokenScore]>>,
    /// What comes in place of a token, where none is wanted.
    pooled: Option<Box<[f32]>>,
    /// Failures it was in flight at.
    pub(crate) failures: u32,
    pub(crate) submitted_at_step: u64,
    got_a_token: bool,
    is_giant: bool,
}

/// How many ended how.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) finished: u64,
    pub(crate) cancelled: u64,
    pub(crate) given_up: u64,
    pub(crate) timed_out: u64,
    pub(crate) tokens: u64,
    /// Prompts that nothing was to follow.
    pub(crate) read: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) expired: u64,
    pub(crate) longest_wait_steps: u64,
    /// Of those that may need more than half of the longest sequence.
    pub(crate) giants: u64,
    pub(crate) longest_giant_wait_steps: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) waiting: HashMap<SequenceId, Client>,
    pub(crate) tally: Tally,
    /// What the last one that finished had: somebody may go on from there.
    pub(crate) last_answer: Vec<u32>,
    /// KV tokens beyond which a request is a giant.
    pub(crate) giant_from: u32,
}

impl Clients {
    pub(crate) fn add(&mut self, id: SequenceId, request: &SequenceRequest, step: u64) {
        let client = Client {
            history: History::of(&request.prompt),
            tokens: request.prompt.to_vec(),
            prompt: request.prompt.len() as u32,
            seed: request.sampling.seed,
            deadline: request.deadline,
            left: request.max_new_tokens,
            stops: !request.stop_token_ids.is_empty(),
            scores: request.sampling.prompt_top_tokens.map(|_| {
                let scored = request.prompt.get(1..).unwrap_or_default();
                scored.iter().map(|token| score(*token)).collect()
            }),
            pooled: request
                .pooling
                .map(|pooling| pooled(&request.prompt, pooling)),
            failures: 0,
            submitted_at_step: step,
            got_a_token: false,
            is_giant: request.prompt.len() as u32 + request.max_new_tokens > self.giant_from,
        };
        assert!(
            self.waiting.insert(id, client).is_none(),
            "an id was used twice"
        );
    }

    /// A token came: it must be the next one, of a sequence that has not ended. Or none came, because none was wanted.
    pub(crate) fn token(&mut self, id: SequenceId, event: &TokenEvent, step: u64) {
        let client = self.waiting.get_mut(&id).expect("a token after the end");
        let token = event.token.as_ref().map(|token| token.id);
        let next = (client.left > 0).then(|| client.history.next(client.seed));
        assert_eq!(token, next, "a gap, a repeat, or another's token");
        assert_eq!(event.pooled, client.pooled, "states of other tokens");
        assert_eq!(
            event.prompt,
            client.scores.take(),
            "scores of another prompt, too few, or twice"
        );
        assert!(
            event.cached_tokens < client.prompt,
            "the last prompt token is always computed"
        );
        if let Some(token) = token {
            client.history.push(token);
            client.tokens.push(token);
            client.left -= 1;
            self.tally.tokens += 1;
        } else {
            self.tally.read += 1;
        }
        if !std::mem::replace(&mut client.got_a_token, true) {
            let waited = step - client.submitted_at_step;
            let tally = &mut self.tally;
            tally.longest_wait_steps = tally.longest_wait_steps.max(waited);
            if client.is_giant {
                tally.giants += 1;
                tally.longest_giant_wait_steps = tally.longest_giant_wait_steps.max(waited);
            }
        }
        let expected = match (token, client.left) {
            (Some(STOP), _) if client.stops => Some(FinishReason::EosToken),
            (_, 0) => Some(FinishReason::Length),
            _ => None,
        };
        assert_eq!(event.finish, expected);
        if expected.is_some()
            && let Some(client) = self.waiting.remove(&id)
        {
            self.tally.finished += 1;
            self.tally.cached_tokens += u64::from(event.cached_tokens);
            self.last_answer = client.tokens;
        }
    }

    /// A stream broke off: only with a reason that explains it.
    pub(crate) fn failed(
        &mut self,
        id: SequenceId,
        error: &StreamError,
        outage_was_long: bool,
        now: Instant,
    ) {
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
            StreamError::Expired => {
                assert!(client.deadline.is_some_and(|deadline| deadline <= now));
                self.tally.expired += 1;
            }
            StreamError::FewSequences { .. } => panic!("nobody searches"),
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

/// What kinds of clients come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// Poisoned prompts, per thousand.
    pub(crate) poison: u64,
    /// In a hurry, per thousand.
    pub(crate) hurried: u64,
    /// Nearly as long as can be, per thousand.
    pub(crate) giant: u64,
    /// Tokens of the longest sequence.
    pub(crate) longest: u32,
}

/// One request: a few sequences with one prompt.
pub(crate) fn request(
    rng: &mut Rng,
    crowd: Crowd,
    last_answer: &[u32],
    now: Instant,
) -> Vec<SequenceRequest> {
    let prompt = if rng.chance(crowd.giant) {
        let tokens = rng.between(
            u64::from(crowd.longest) * 3 / 4,
            u64::from(crowd.longest) - 20,
        );
        own_tokens(rng, tokens)
    } else {
        prompt(rng, crowd, last_answer)
    };
    let number = if rng.chance(100) {
        rng.between(2, 4)
    } else {
        1
    };
    let seed = if rng.chance(500) { 0 } else { rng.next() };
    let hurried = rng.chance(crowd.hurried);
    let deadline = hurried.then(|| now + Duration::from_millis(rng.between(1, 2_000)));
    // Far beyond what admission looks ahead for, now and then.
    let most = if rng.chance(200) { 15 } else { 4 } * u64::from(crowd.longest) / 16;
    let max_new_tokens = (rng.between(1, most) as u32).min(crowd.longest - prompt.len() as u32);
    let stops = rng.chance(800);
    let salted = rng.chance(100);
    let scored = rng.chance(100);
    let tenant = match rng.between(0, 3) {
        0 => None,
        number => Some(TENANTS[number as usize % TENANTS.len()].into()),
    };
    let priority = match rng.between(0, 9) {
        0 => -1,
        1 => 1,
        _ => 0,
    };
    let (max_new_tokens, pooling) = match seed % 48 {
        1 => (0, None),
        2 => (0, Some(Pooling::Mean)),
        3 => (0, Some(Pooling::Last)),
        _ => (max_new_tokens, None),
    };
    let choice = |choice: u64| SequenceRequest {
        prompt: prompt.clone().into(),
        max_new_tokens,
        pooling,
        sampling: Arc::new(Sampling {
            seed: seed.wrapping_mul(choice),
            prompt_top_tokens: scored.then_some(1),
            ..Sampling::default()
        }),
        stop_token_ids: if stops {
            Arc::from([STOP])
        } else {
            Arc::from([])
        },
        min_tokens: 0,
        traceparent: None,
        cache_salt: salted.then(|| "salt".into()),
        tenant: tenant.clone(),
        priority,
        deadline,
    };
    (1..=number).map(choice).collect()
}

/// What the simulated shard makes of a prompt.
fn pooled(prompt: &[u32], pooling: Pooling) -> Box<[f32]> {
    let mut states = prompt.iter().map(|token| *token as f32);
    match pooling {
        Pooling::Mean => states.collect(),
        Pooling::Last => states.next_back().into_iter().collect(),
    }
}

/// A document that many begin with, or the last answer, or nothing; then something of one's own.
fn prompt(rng: &mut Rng, crowd: Crowd, last_answer: &[u32]) -> Vec<u32> {
    let part = |sixteenths: u64| u64::from(crowd.longest) * sixteenths / 16;
    let mut prompt: Vec<u32> = match rng.between(0, 9) {
        0..4 => {
            let mut document = Rng(rng.between(0, 5));
            let length = rng.between(1, part(9));
            (0..length)
                .map(|_| document.between(10, 69) as u32)
                .collect()
        }
        4 => last_answer
            .iter()
            .copied()
            .take(part(11) as usize)
            .collect(),
        _ => Vec::new(),
    };
    if rng.chance(crowd.poison) {
        prompt = vec![if rng.chance(500) {
            FAILS_STEPS
        } else {
            KILLS_SHARDS
        }];
    }
    let own = if rng.chance(100) {
        rng.between(part(2), part(4) - 4)
    } else {
        rng.between(1, part(2))
    };
    prompt.extend(own_tokens(rng, own));
    prompt
}

fn own_tokens(rng: &mut Rng, number: u64) -> Vec<u32> {
    (0..number).map(|_| rng.between(10, 69) as u32).collect()
}

/// A request for forty tokens, whatever they are.
pub(crate) fn plain(client: u64, first: u32) -> SequenceRequest {
    SequenceRequest {
        prompt: vec![first, 10 + client as u32, 11, 12, 13, 14, 15].into(),
        max_new_tokens: 40,
        pooling: None,
        sampling: Arc::new(Sampling::default()),
        stop_token_ids: Arc::from([]),
        min_tokens: 0,
        traceparent: None,
        cache_salt: None,
        tenant: None,
        priority: 0,
        deadline: None,
    }
}
