//! An engine that says what a script says, and remembers what it was asked.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::stream;
use ribbon_core::{
    DebugAnswer, Engine, EngineLoad, EngineState, FinishReason, Limits, Line, Pooling, PromptRuns,
    Refusal, RibbonsSnapshot, Search, SequenceRequest, ShardDescription, StreamError, Token,
    TokenEvent, TokenScore, TokenStream, Tokens,
};

/// One thing the script does.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Token(u32),
    Pause(Duration),
    Fail(StreamError),
    /// The stream ends without a finish reason.
    Break,
}

pub(crate) struct FakeEngine {
    script: Vec<Item>,
    /// What the other sequences of a group say, in their order; absent: the same.
    pub(crate) others: Vec<Vec<Item>>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) state: Mutex<EngineState>,
    pub(crate) limits: Option<Arc<Limits>>,
    /// Also while draining.
    pub(crate) shard_is_gone: AtomicBool,
    /// Requests that were refused before they came here.
    pub(crate) turned_away: AtomicI64,
    pub(crate) load: EngineLoad,
    pub(crate) asked: Mutex<Vec<SequenceRequest>>,
    /// Streams that are neither complete nor dropped.
    pub(crate) alive: Arc<AtomicI64>,
    /// Streams whose client had all it wanted.
    pub(crate) satisfied: Arc<AtomicI64>,
    /// Prompt tokens that were asked about before tokenizing.
    pub(crate) rooms: Mutex<Vec<u64>>,
    pub(crate) can_pool: bool,
    pub(crate) can_score_prompts: bool,
    pub(crate) prompt_runs: PromptRuns,
    /// The likeliest tokens behind what a search picked so far.
    pub(crate) listed: fn(&[u32]) -> Vec<(u32, f32)>,
    /// Ends the first line of each round behind so many tokens.
    pub(crate) breaks_behind: Option<usize>,
    /// What the rounds of searches were asked.
    pub(crate) rounds: Arc<Mutex<Vec<Vec<Line>>>>,
}

impl FakeEngine {
    pub(crate) fn new(script: Vec<Item>) -> Self {
        let limits = Limits {
            max_input_tokens: 200,
            max_total_tokens: 256,
            max_batch_prefill_tokens: 512,
            max_batch_total_tokens: 8192,
            max_concurrent_sequences: 8,
            vocab_size: 2048,
        };
        Self {
            script,
            others: Vec::new(),
            refusal: None,
            state: Mutex::new(EngineState::Ready),
            limits: Some(Arc::new(limits)),
            shard_is_gone: AtomicBool::default(),
            turned_away: AtomicI64::default(),
            load: EngineLoad::default(),
            asked: Mutex::default(),
            alive: Arc::default(),
            satisfied: Arc::default(),
            rooms: Mutex::default(),
            can_pool: true,
            can_score_prompts: true,
            prompt_runs: PromptRuns::Causal,
            listed: |_| vec![(super::EOS, -0.5), (100, -1.0), (101, -1.5), (102, -2.0)],
            breaks_behind: None,
            rounds: Arc::default(),
        }
    }

    /// The last request.
    pub(crate) fn last(&self) -> SequenceRequest {
        self.asked.lock().unwrap().last().unwrap().clone()
    }

    pub(crate) fn alive(&self) -> i64 {
        self.alive.load(Ordering::SeqCst)
    }
}

struct Playing {
    items: VecDeque<Item>,
    request: SequenceRequest,
    generated: u32,
    alive: Arc<AtomicI64>,
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Playing {
    /// With the first event, where asked for: the more certain the farther.
    fn prompt_scores(&self) -> Option<Box<[TokenScore]>> {
        let count = self
            .request
            .sampling
            .prompt_top_tokens
            .filter(|_| self.generated <= 1)?;
        let scored = self.request.prompt.iter().enumerate().skip(1);
        let score = |(place, id): (usize, &u32)| TokenScore {
            logprob: -8.0 / place as f32,
            top: top(*id, count),
        };
        Some(scored.map(score).collect())
    }

    /// The one event of a request that generates nothing; the vector is longer the longer the prompt.
    fn reading(&self) -> TokenEvent {
        let length = self.request.prompt.len() as f32;
        let pooled = self.request.pooling.map(|pooling| match pooling {
            Pooling::Mean => vec![3.0 * length, -4.0 * length],
            Pooling::Last => vec![0.0, length],
        });
        TokenEvent {
            token: None,
            finish: Some(FinishReason::Length),
            queued: Duration::from_millis(3),
            cached_tokens: 2,
            prompt: self.prompt_scores(),
            pooled: pooled.map(Into::into),
        }
    }

    fn token(&mut self, id: u32) -> TokenEvent {
        self.generated += 1;
        let is_stop = self.request.stop_token_ids.contains(&id);
        let is_last = self.generated == self.request.max_new_tokens;
        let top = top(id, self.request.sampling.top_tokens);
        TokenEvent {
            token: Some(Token {
                id,
                logprob: -0.25 * self.generated as f32,
                top,
            }),
            finish: if is_stop {
                Some(FinishReason::EosToken)
            } else {
                is_last.then_some(FinishReason::Length)
            },
            queued: Duration::from_millis(3),
            cached_tokens: 2,
            prompt: self.prompt_scores(),
            pooled: None,
        }
    }
}

/// So many of the likeliest, `id` first.
fn top(id: u32, count: u32) -> Vec<(u32, f32)> {
    (0..count).map(|i| (id + i, -0.5 - i as f32)).collect()
}

/// A script on its way to a client.
struct Played {
    tokens: Pin<Box<dyn Stream<Item = Result<TokenEvent, StreamError>> + Send>>,
    satisfied: Arc<AtomicI64>,
}

impl Stream for Played {
    type Item = Result<TokenEvent, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.tokens.as_mut().poll_next(cx)
    }
}

impl Tokens for Played {
    fn enough(self: Pin<&mut Self>) {
        self.satisfied.fetch_add(1, Ordering::SeqCst);
    }
}

/// A search of one prompt: every token is there at once.
struct FakeSearch {
    listed: fn(&[u32]) -> Vec<(u32, f32)>,
    breaks_behind: Option<usize>,
    rounds: Arc<Mutex<Vec<Vec<Line>>>>,
    alive: Arc<AtomicI64>,
}

impl Drop for FakeSearch {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeSearch {
    fn answer(&self, line: &Line) -> Result<TokenEvent, StreamError> {
        if self.breaks_behind == Some(line.generated.len()) {
            return Err(StreamError::Generation("broken".to_owned()));
        }
        let mut top = (self.listed)(&line.generated);
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        top.truncate(line.request.sampling.top_tokens as usize);
        let (id, logprob) = top[0];
        Ok(TokenEvent {
            token: Some(Token { id, logprob, top }),
            finish: Some(FinishReason::Length),
            queued: Duration::from_millis(3),
            cached_tokens: 2,
            prompt: None,
            pooled: None,
        })
    }
}

impl Search for FakeSearch {
    fn round(&mut self, lines: Vec<Line>) -> Vec<TokenStream> {
        let stream = |line: &Line| -> TokenStream {
            let tokens = Box::pin(stream::iter([self.answer(line)]));
            Box::pin(Played {
                tokens,
                satisfied: Arc::default(),
            })
        };
        let streams = lines.iter().map(stream).collect();
        self.rounds.lock().unwrap().push(lines);
        streams
    }
}

impl FakeEngine {
    fn play(&self, request: SequenceRequest, script: &[Item]) -> TokenStream {
        self.asked.lock().unwrap().push(request.clone());
        self.alive.fetch_add(1, Ordering::SeqCst);
        let playing = Playing {
            items: script.to_vec().into(),
            request,
            generated: 0,
            alive: self.alive.clone(),
        };
        let tokens = stream::unfold(Some(playing), async |playing| {
            let mut playing = playing?;
            loop {
                let reads_only = playing.request.max_new_tokens == 0;
                match playing.items.pop_front() {
                    None | Some(Item::Break) => return None,
                    Some(Item::Pause(duration)) => tokio::time::sleep(duration).await,
                    Some(Item::Fail(error)) => return Some((Err(error), None)),
                    Some(Item::Token(_)) if reads_only => {
                        return Some((Ok(playing.reading()), None));
                    }
                    Some(Item::Token(id)) => {
                        let event = playing.token(id);
                        let rest = event.finish.is_none().then_some(playing);
                        return Some((Ok(event), rest));
                    }
                }
            }
        });
        Box::pin(Played {
            tokens: Box::pin(tokens),
            satisfied: self.satisfied.clone(),
        })
    }
}

impl Engine for FakeEngine {
    fn submit(&self, group: Vec<SequenceRequest>) -> Result<Vec<TokenStream>, Refusal> {
        self.room(0)?;
        let scripts = std::iter::once(&self.script).chain(&self.others);
        let scripts = scripts.chain(std::iter::repeat(&self.script));
        let pairs = group.into_iter().zip(scripts);
        Ok(pairs
            .map(|(request, script)| self.play(request, script))
            .collect())
    }

    fn search(&self, group: Vec<SequenceRequest>) -> Result<Vec<Box<dyn Search>>, Refusal> {
        self.room(0)?;
        let search = |request| -> Box<dyn Search> {
            self.asked.lock().unwrap().push(request);
            self.alive.fetch_add(1, Ordering::SeqCst);
            Box::new(FakeSearch {
                listed: self.listed,
                breaks_behind: self.breaks_behind,
                rounds: self.rounds.clone(),
                alive: self.alive.clone(),
            })
        };
        Ok(group.into_iter().map(search).collect())
    }

    fn room(&self, prompt_tokens: u64) -> Result<(), Refusal> {
        self.rooms.lock().unwrap().push(prompt_tokens);
        if self.state() == EngineState::Draining {
            return Err(Refusal::ShuttingDown);
        }
        self.refusal.clone().map_or(Ok(()), Err)
    }

    fn limits(&self) -> Option<Arc<Limits>> {
        self.limits.clone()
    }

    fn description(&self) -> Option<Arc<ShardDescription>> {
        self.limits.as_ref().map(|limits| {
            Arc::new(ShardDescription {
                architecture: "Fake".to_owned(),
                dtype: "float32".to_owned(),
                device: "cpu".to_owned(),
                vocab_size: limits.vocab_size,
                max_positions: 4096,
                eos_token_ids: vec![super::EOS],
                prompt_runs: self.prompt_runs,
                kv_groups: Vec::new(),
                max_batch_prefill_tokens: 512,
                max_total_tokens: limits.max_total_tokens,
                num_shards: 1,
                runs_bridge: false,
                can_pool: self.can_pool,
                can_score_prompts: self.can_score_prompts,
                slowest_step: Duration::from_millis(1),
                prompt_token: Duration::from_micros(1),
                revision: None,
            })
        })
    }

    fn debug(&self) -> DebugAnswer {
        let snapshot = (self.state() == EngineState::Ready).then(RibbonsSnapshot::default);
        Box::pin(std::future::ready(snapshot))
    }

    fn state(&self) -> EngineState {
        *self.state.lock().unwrap()
    }

    fn makes_steps(&self) -> bool {
        let is_gone = self.shard_is_gone.load(Ordering::SeqCst);
        !is_gone && matches!(self.state(), EngineState::Ready | EngineState::Draining)
    }

    fn turned_away(&self) -> Duration {
        self.turned_away.fetch_add(1, Ordering::SeqCst);
        Duration::from_secs(7)
    }

    fn load(&self) -> EngineLoad {
        self.load
    }
}
