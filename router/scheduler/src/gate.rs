//! The door: takes or refuses a request at once, on the caller's thread. Knows limits and counts; not slots, not plans.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ribbon_core::{EngineLoad, EngineState, Limits, Refusal, SequenceRequest, ShardDescription};

/// One stream of tokens inside the scheduler; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Retry advice while no shard has been warm yet.
const START_RETRY: Duration = Duration::from_secs(5);

/// What the door shows to the outside.
#[derive(Clone, Debug)]
struct View {
    state: EngineState,
    limits: Option<Arc<Limits>>,
    description: Option<Arc<ShardDescription>>,
    /// Tokens the KV memory holds for one sequence.
    longest_kv: u64,
}

/// Counts the requests in the house and answers for the engine's state. Shared by the state machine and its handle.
#[derive(Debug)]
pub struct Gate {
    limit: u32,
    occupied: AtomicU32,
    next_id: AtomicU64,
    running: AtomicU32,
    queued: AtomicU32,
    retry_after_seconds: AtomicU64,
    view: RwLock<View>,
}

impl Gate {
    /// A closed door: nothing is taken until a shard was warm.
    pub fn new(max_concurrent_requests: u32) -> Arc<Self> {
        Arc::new(Self {
            limit: max_concurrent_requests,
            occupied: AtomicU32::new(0),
            next_id: AtomicU64::new(1),
            running: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            retry_after_seconds: AtomicU64::new(1),
            view: RwLock::new(View {
                state: EngineState::Starting,
                limits: None,
                description: None,
                longest_kv: 0,
            }),
        })
    }

    /// Takes a place for `request`.
    ///
    /// # Errors
    /// Draining, not ready yet, too long for the KV memory, or too many requests, in this order.
    pub fn admit(self: &Arc<Self>, request: &SequenceRequest) -> Result<Permit, Refusal> {
        let (state, longest_kv) = self.read(|view| (view.state, view.longest_kv));
        match state {
            EngineState::Draining => return Err(Refusal::ShuttingDown),
            EngineState::Starting => {
                return Err(Refusal::NotReady {
                    retry_after: START_RETRY,
                });
            }
            EngineState::Ready | EngineState::Recovering => {}
        }
        let needed = kv_tokens(request);
        if needed > longest_kv {
            return Err(Refusal::NeverFits {
                needed,
                limit: longest_kv,
            });
        }
        self.take_place()
    }

    fn take_place(self: &Arc<Self>) -> Result<Permit, Refusal> {
        let taken = self
            .occupied
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |occupied| {
                (occupied < self.limit).then(|| occupied + 1)
            });
        match taken {
            Ok(_) => Ok(Permit {
                id: SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed)),
                gate: Arc::clone(self),
            }),
            Err(running) => Err(Refusal::Overloaded {
                running,
                limit: self.limit,
                retry_after: Duration::from_secs(self.retry_after_seconds.load(Ordering::Relaxed)),
            }),
        }
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
        self.read(|view| view.limits.clone())
    }

    /// The model, once a shard was warm.
    pub fn description(&self) -> Option<Arc<ShardDescription>> {
        self.read(|view| view.description.clone())
    }

    /// How busy the engine is, as of its last turn.
    pub fn load(&self) -> EngineLoad {
        EngineLoad {
            running: self.running.load(Ordering::Relaxed),
            queued: self.queued.load(Ordering::Relaxed),
        }
    }

    /// Says what the engine is doing now. Draining is final.
    pub(crate) fn set_state(&self, state: EngineState) {
        self.write(|view| {
            if view.state != EngineState::Draining {
                view.state = state;
            }
        });
    }

    /// Takes nobody any more.
    pub fn drain(&self) {
        self.set_state(EngineState::Draining);
    }

    /// Shows the limits of a new generation.
    pub(crate) fn set_limits(
        &self,
        limits: Limits,
        description: ShardDescription,
        longest_kv: u64,
    ) {
        self.write(|view| {
            view.limits = Some(Arc::new(limits));
            view.description = Some(Arc::new(description));
            view.longest_kv = longest_kv;
        });
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

/// A place in the house, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    id: SequenceId,
    gate: Arc<Gate>,
}

impl Permit {
    /// The sequence that holds this place.
    pub fn id(&self) -> SequenceId {
        self.id
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.occupied.fetch_sub(1, Ordering::AcqRel);
    }
}

/// KV tokens a request needs at most: the last generated token is never fed.
pub(crate) fn kv_tokens(request: &SequenceRequest) -> u64 {
    request.prompt.len() as u64 + u64::from(request.max_new_tokens) - 1
}
