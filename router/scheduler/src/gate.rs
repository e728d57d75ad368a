//! The door: takes or refuses a request at once, on the caller's thread. Knows limits and counts; not slots, not plans.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ribbon_core::{
    EngineLoad, EngineState, Limits, PromptRuns, Refusal, SequenceRequest, ShardDescription,
};

/// One stream of tokens inside the scheduler; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// The sequences of one request; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

/// Without a limit of its own the queue holds so many times the tokens that the KV memory does.
const QUEUE_PER_POOL: u64 = 4;
/// Retry advice while no shard has been warm yet.
const START_RETRY: Duration = Duration::from_secs(5);

/// What the door shows to the outside.
#[derive(Clone, Debug)]
struct View {
    state: EngineState,
    /// Once a shard was warm.
    model: Option<WarmModel>,
}

/// The model as the last warm shard has it.
#[derive(Clone, Debug)]
struct WarmModel {
    limits: Arc<Limits>,
    description: Arc<ShardDescription>,
    /// Tokens the KV memory holds for one sequence.
    longest_kv: u64,
}

/// Counts the requests in the house and answers for the engine's state. Shared by the state machine and its handle.
#[derive(Debug)]
pub struct Gate {
    limit: u32,
    max_queued_tokens: Option<u64>,
    occupied: AtomicU32,
    /// Prompt tokens of sequences that have not begun.
    queued_tokens: AtomicU64,
    next_id: AtomicU64,
    /// Nobody is taken any more.
    closed: AtomicBool,
    /// A shard is live, also while draining.
    live: AtomicBool,
    running: AtomicU32,
    queued: AtomicU32,
    retry_after_seconds: AtomicU64,
    view: RwLock<View>,
}

impl Gate {
    /// A closed door: nothing is taken until a shard was warm.
    ///
    /// `max_queued_tokens`: prompt tokens that may wait; absent: four times what the KV memory holds.
    pub fn new(max_concurrent_requests: u32, max_queued_tokens: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            limit: max_concurrent_requests,
            max_queued_tokens,
            occupied: AtomicU32::new(0),
            queued_tokens: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            live: AtomicBool::new(false),
            running: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            retry_after_seconds: AtomicU64::new(1),
            view: RwLock::new(View {
                state: EngineState::Starting,
                model: None,
            }),
        })
    }

    /// Takes a place for a request, and an id for each of its sequences.
    ///
    /// # Errors
    /// Closed, not ready yet, too long for the KV memory, too many requests, or too many waiting tokens, in this order.
    pub fn admit(self: &Arc<Self>, group: &[SequenceRequest]) -> Result<Vec<Permit>, Refusal> {
        let longest_kv = self.open(|model| model.longest_kv)?;
        let needed = group.iter().map(kv_tokens).max().unwrap_or_default();
        if needed > longest_kv {
            return Err(Refusal::NeverFits {
                needed,
                limit: longest_kv,
            });
        }
        let place = Arc::new(self.take_place()?);
        self.queue_has_room(waiting_tokens(group).sum())?;
        let first = self
            .next_id
            .fetch_add(group.len() as u64, Ordering::Relaxed);
        let permit = |(tokens, id)| Permit::new(&place, SequenceId(id), GroupId(first), tokens);
        Ok(waiting_tokens(group).zip(first..).map(permit).collect())
    }

    /// Whether a request of about so many prompt tokens would be taken now.
    ///
    /// # Errors
    /// As [`Gate::admit`], its length apart.
    pub fn room(&self, prompt_tokens: u64) -> Result<(), Refusal> {
        self.open(|_| ())?;
        let occupied = self.occupied();
        if occupied >= self.limit {
            return Err(self.overloaded(occupied));
        }
        self.queue_has_room(prompt_tokens)
    }

    /// How prompts are computed, which a request has to be made for before it comes to [`Gate::admit`].
    ///
    /// # Errors
    /// Closed, or not ready yet.
    pub(crate) fn prompt_runs(&self) -> Result<PromptRuns, Refusal> {
        self.open(|model| model.description.prompt_runs)
    }

    /// Looks at the model, once there is one.
    fn open<T>(&self, look: impl FnOnce(&WarmModel) -> T) -> Result<T, Refusal> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Refusal::ShuttingDown);
        }
        self.read(|view| view.model.as_ref().map(look))
            .ok_or(Refusal::NotReady {
                retry_after: START_RETRY,
            })
    }

    fn take_place(self: &Arc<Self>) -> Result<Place, Refusal> {
        let taken = self
            .occupied
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |occupied| {
                (occupied < self.limit).then(|| occupied + 1)
            });
        match taken {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(occupied) => Err(self.overloaded(occupied)),
        }
    }

    fn overloaded(&self, running: u32) -> Refusal {
        Refusal::Overloaded {
            running,
            limit: self.limit,
            retry_after: self.retry_after(),
        }
    }

    /// Where nothing waits, one request always may.
    fn queue_has_room(&self, needed: u64) -> Result<(), Refusal> {
        let queued = self.queued_tokens();
        let limit = self.max_queued_tokens();
        if queued == 0 || queued.saturating_add(needed) <= limit {
            return Ok(());
        }
        Err(Refusal::QueueFull {
            queued,
            limit,
            retry_after: self.retry_after(),
        })
    }

    fn max_queued_tokens(&self) -> u64 {
        let pool = |view: &View| {
            let model = view.model.as_ref();
            model.map_or(0, |model| model.limits.max_batch_total_tokens)
        };
        self.max_queued_tokens
            .unwrap_or_else(|| self.read(pool).saturating_mul(QUEUE_PER_POOL))
    }

    /// When a request that is refused now should come again.
    pub(crate) fn retry_after(&self) -> Duration {
        Duration::from_secs(self.retry_after_seconds.load(Ordering::Relaxed))
    }

    /// Prompt tokens of sequences that have not begun.
    pub fn queued_tokens(&self) -> u64 {
        self.queued_tokens.load(Ordering::Acquire)
    }

    /// Requests in the house.
    pub fn occupied(&self) -> u32 {
        self.occupied.load(Ordering::Acquire)
    }

    /// What the engine is doing.
    pub fn state(&self) -> EngineState {
        self.read(|view| view.state)
    }

    /// Limits in force, once a shard was warm.
    pub fn limits(&self) -> Option<Arc<Limits>> {
        self.read(|view| Some(view.model.as_ref()?.limits.clone()))
    }

    /// The model, once a shard was warm.
    pub fn description(&self) -> Option<Arc<ShardDescription>> {
        self.read(|view| Some(view.model.as_ref()?.description.clone()))
    }

    /// How busy the engine is, as of its last turn.
    pub fn load(&self) -> EngineLoad {
        EngineLoad {
            running: self.running.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
        }
    }

    /// Whether a shard is live, whatever else is going on.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Says what the engine is doing now. Draining is final.
    pub(crate) fn set_state(&self, state: EngineState) {
        if state != EngineState::Draining {
            self.live
                .store(state == EngineState::Ready, Ordering::Release);
        }
        self.write(|view| {
            if view.state != EngineState::Draining {
                view.state = state;
            }
        });
    }

    /// Says that the server stops; requests are still taken.
    pub fn drain(&self) {
        self.set_state(EngineState::Draining);
    }

    /// Takes nobody any more.
    pub fn close(&self) {
        self.drain();
        self.closed.store(true, Ordering::Release);
    }

    /// Shows the limits of a new generation.
    pub(crate) fn set_limits(
        &self,
        limits: Limits,
        description: ShardDescription,
        longest_kv: u64,
    ) {
        let model = WarmModel {
            limits: Arc::new(limits),
            description: Arc::new(description),
            longest_kv,
        };
        self.write(|view| view.model = Some(model));
    }

    pub(crate) fn set_load(&self, load: EngineLoad) {
        self.running.store(load.running, Ordering::Relaxed);
        self.queued.store(load.queued, Ordering::Relaxed);
    }

    pub(crate) fn set_retry_after(&self, seconds: u64) {
        self.retry_after_seconds.store(seconds, Ordering::Relaxed);
    }

    fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A request's place in the house, given back when dropped.
#[derive(Debug)]
struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.occupied.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One sequence's leave to be in the house. The request's place is free once all its sequences have gone.
#[derive(Debug)]
pub struct Permit {
    id: SequenceId,
    group: GroupId,
    place: Arc<Place>,
    /// Prompt tokens that count as waiting.
    waiting_tokens: u64,
}

impl Permit {
    fn new(place: &Arc<Place>, id: SequenceId, group: GroupId, waiting_tokens: u64) -> Self {
        place
            .0
            .queued_tokens
            .fetch_add(waiting_tokens, Ordering::AcqRel);
        Self {
            id,
            group,
            place: Arc::clone(place),
            waiting_tokens,
        }
    }

    /// The sequence that holds it.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// The request it belongs to.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Leave for one more sequence of the same request, whose prompt does not wait.
    pub(crate) fn further(&self) -> Self {
        let id = self.place.0.next_id.fetch_add(1, Ordering::Relaxed);
        Self::new(&self.place, SequenceId(id), self.group, 0)
    }

    /// The sequence begins: its prompt waits no more.
    pub(crate) fn begin(&mut self) {
        let tokens = std::mem::take(&mut self.waiting_tokens);
        let queued = &self.place.0.queued_tokens;
        queued.fetch_sub(tokens, Ordering::AcqRel);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.begin();
    }
}

/// Prompt tokens that each sequence adds to the queue: a prompt that the one before has too is computed once.
fn waiting_tokens(group: &[SequenceRequest]) -> impl Iterator<Item = u64> {
    let before = std::iter::once(None).chain(group.iter().map(Some));
    group.iter().zip(before).map(|(request, before)| {
        let is_shared = before.is_some_and(|before| Arc::ptr_eq(&before.prompt, &request.prompt));
        if is_shared {
            0
        } else {
            request.prompt.len() as u64
        }
    })
}

/// KV tokens a request needs at most: the last generated token is never fed, the last of a prompt always is.
pub(crate) fn kv_tokens(request: &SequenceRequest) -> u64 {
    request.prompt.len() as u64 + u64::from(request.max_new_tokens).saturating_sub(1)
}
