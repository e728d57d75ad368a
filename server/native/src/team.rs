//! Threads that share out the pieces of one call at a time. A kernel call lasts microseconds and a step makes a hundred of
//! them, so workers look out for the next call a moment before they sleep, and the caller works too. Knows counts; not kernels.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a worker looks out before it sleeps: longer than the Python between two kernels, shorter than what another
/// pool's threads would miss. Waking a sleeper costs 30 to 100 us here, benchmarks/LOG.md.
const LOOK_OUT: Duration = Duration::from_micros(60);

/// The gate is one word: the number of the call, whether it may still be entered, and how many workers are in it.
const OPEN: u64 = 1 << 16;
const CALL: u64 = 1 << 17;
const INSIDE: u64 = OPEN - 1;

type Work<'a> = &'a (dyn Fn(usize) + Sync);

#[derive(Clone, Copy)]
struct Call {
    work: Work<'static>,
    count: usize,
}

struct Shared {
    gate: AtomicU64,
    call: UnsafeCell<Option<Call>>,
    next_piece: AtomicUsize,
    panicked: AtomicBool,
    leaves: AtomicBool,
}

// SAFETY: `call` is written by the one caller while nobody can be inside, and read only by workers that are.
unsafe impl Sync for Shared {}

struct Worker {
    asleep: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// The caller and its workers.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    calling: Mutex<()>,
}

impl Team {
    /// Starts `num_threads - 1` workers; the caller is the last thread.
    ///
    /// # Errors
    /// When a thread does not start.
    pub(crate) fn start(num_threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            call: UnsafeCell::new(None),
            next_piece: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
        });
        let mut team = Self {
            shared,
            workers: Vec::new(),
            calling: Mutex::new(()),
        };
        for index in 1..num_threads {
            let worker = Worker::start(index, &team.shared)?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// The caller included.
    pub(crate) fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(0..count)`, each piece once, and returns when all are done. A call within a call, or from a second thread
    /// at the same time, runs on its own thread alone.
    ///
    /// # Panics
    /// When a piece does, after every thread has left the call.
    pub(crate) fn run(&self, count: usize, work: Work<'_>) {
        let _calling = match self.calling.try_lock() {
            Ok(calling) => calling,
            // A piece panicked in an earlier call; every thread had left it.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..count).for_each(work),
        };
        self.open(count, work);
        let ours = catch_unwind(AssertUnwindSafe(|| self.shared.take_pieces(count, work)));
        self.close();
        let panicked = self.shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = ours {
            resume_unwind(panic);
        }
        assert!(!panicked, "a kernel panicked on a worker thread");
    }

    fn open(&self, count: usize, work: Work<'_>) {
        // SAFETY: the gate is closed and nobody is inside, so nobody reads; `close` ends every use before `work` dies.
        unsafe {
            let work = std::mem::transmute::<Work<'_>, Work<'static>>(work);
            *self.shared.call.get() = Some(Call { work, count });
        }
        self.shared.next_piece.store(0, Ordering::Relaxed);
        self.shared.gate.fetch_add(CALL | OPEN, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
    }

    /// Nobody enters any more; waits for those inside. A worker that slept through the call is not waited for.
    fn close(&self) {
        let mut gate = self.shared.gate.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let began = Instant::now();
        while gate & INSIDE != 0 {
            if began.elapsed() < LOOK_OUT {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
            gate = self.shared.gate.load(Ordering::Acquire);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.leaves.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker catches the panics of its pieces, so there is none to pass on.
                drop(handle.join());
            }
        }
    }
}

impl Worker {
    fn start(index: usize, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let asleep = Arc::new(AtomicBool::new(false));
        let (shared, sleeping) = (Arc::clone(shared), Arc::clone(&asleep));
        let handle = thread::Builder::new()
            .name(format!("ribbon-{index}"))
            .spawn(move || shared.serve(&sleeping))?;
        Ok(Self {
            asleep,
            thread: handle.thread().clone(),
            handle: Some(handle),
        })
    }
}

impl Shared {
    fn take_pieces(&self, count: usize, work: Work<'_>) {
        loop {
            let piece = self.next_piece.fetch_add(1, Ordering::Relaxed);
            if piece >= count {
                return;
            }
            work(piece);
        }
    }

    /// A worker's life.
    fn serve(&self, asleep: &AtomicBool) {
        let mut last_call = 0;
        let mut idle_since = Instant::now();
        while !self.leaves.load(Ordering::Relaxed) {
            if let Some(call) = self.enter(last_call) {
                last_call = call;
                self.work_inside();
                idle_since = Instant::now();
            } else if idle_since.elapsed() < LOOK_OUT {
                std::hint::spin_loop();
            } else {
                self.sleep(last_call, asleep);
                idle_since = Instant::now();
            }
        }
    }

    /// Enters the call at the gate, unless it is closed or was served already. Returns its number.
    fn enter(&self, last_call: u64) -> Option<u64> {
        let mut gate = self.gate.load(Ordering::Acquire);
        while gate & OPEN != 0 && gate / CALL != last_call {
            match self.gate.compare_exchange_weak(
                gate,
                gate + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(gate / CALL),
                Err(current) => gate = current,
            }
        }
        None
    }

    fn work_inside(&self) {
        // SAFETY: inside, so the caller neither writes the call nor lets its closure go before this thread has left.
        if let Some(call) = unsafe { *self.call.get() } {
            let done = catch_unwind(AssertUnwindSafe(|| self.take_pieces(call.count, call.work)));
            if done.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        self.gate.fetch_sub(1, Ordering::AcqRel);
    }

    fn sleep(&self, last_call: u64, asleep: &AtomicBool) {
        asleep.store(true, Ordering::SeqCst);
        let gate = self.gate.load(Ordering::SeqCst);
        let missed = gate & OPEN != 0 && gate / CALL != last_call;
        if !missed && !self.leaves.load(Ordering::SeqCst) {
            thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

/// The team that kernels use; started when first needed.
static TEAM: Mutex<Option<Arc<Team>>> = Mutex::new(None);

/// Replaces the team.
///
/// # Errors
/// When a thread does not start; the old team stays.
pub(crate) fn replace(num_threads: usize) -> std::io::Result<()> {
    let team = Arc::new(Team::start(num_threads)?);
    *TEAM.lock().unwrap_or_else(PoisonError::into_inner) = Some(team);
    Ok(())
}

/// The team, with as many threads as `default` says if none was set; `None` if they do not start.
pub(crate) fn current(default: impl FnOnce() -> usize) -> Option<Arc<Team>> {
    let mut team = TEAM.lock().unwrap_or_else(PoisonError::into_inner);
    if team.is_none() {
        *team = Team::start(default()).ok().map(Arc::new);
    }
    team.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once_in_many_calls_with_sleeps_between() {
        let team = Team::start(4).unwrap();
        for call in 0..2_000_usize {
            let count = 1 + call % 7;
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            team.run(count, &|piece| {
                done[piece].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1));
            if call % 100 == 0 {
                thread::park_timeout(2 * LOOK_OUT);
            }
        }
    }

    #[test]
    fn a_call_within_a_call_and_beside_one_runs_too() {
        let team = Team::start(3).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        team.run(4, &|_| {
                            team.run(2, &|piece| {
                                sum.fetch_add(piece + 1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 3 * 200 * 4 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::start(2).unwrap();
        for _ in 0..20 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(8, &|piece| assert_ne!(piece, 5));
            }));
            assert!(caught.is_err());
        }
        // Each of two pieces waits for the other: one thread alone would never get through.
        let (met, began) = (AtomicUsize::new(0), Instant::now());
        team.run(2, &|_| {
            met.fetch_add(1, Ordering::SeqCst);
            while met.load(Ordering::SeqCst) < 2 {
                assert!(began.elapsed() < Duration::from_secs(20));
                thread::yield_now();
            }
        });
    }
}
